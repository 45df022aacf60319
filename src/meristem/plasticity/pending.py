"""Demands that wait until the statistics that they need have been recorded."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from meristem.schedule import Demand


@dataclass(frozen=True)
class Pending:
    """What waits, and until when.

    Attributes:
        step: the optimizer step after which the demands are carried out; `inf` if there are none.
        demands: in their order.
    """

    step: float = inf
    demands: tuple[Demand, ...] = ()

    def and_then(self, demand: Demand, step: int) -> Pending:
        """With a further demand, which could be carried out after that step."""
        return Pending(max(step, self.step) if self.demands else step, (*self.demands, demand))
