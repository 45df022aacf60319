"""Demands that wait until the statistics that they need have been recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from meristem.edit.succession import Succession
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

    def moved(self, succession: Succession) -> Pending:
        """After an edit of the module tree, with amounts by the names that axes have now."""
        return Pending(self.step, tuple(_moved(demand, succession) for demand in self.demands))


def _moved(demand: Demand, succession: Succession) -> Demand:
    if not isinstance(demand.amount, Mapping):
        return demand
    return replace(demand, amount=succession.carried(demand.amount, sum))
