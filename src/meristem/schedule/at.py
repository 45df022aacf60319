"""At: at given steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from meristem.errors import ConfigError
from meristem.schedule.amounts import Asking
from meristem.schedule.demand import Demand
from meristem.schedule.schedule import Moment, State
from meristem.schedule.times import in_steps


@dataclass(frozen=True)
class At(Asking):
    """After each of these steps, e.g. `At([100, 400], grow=16)` or `At([3, 6], steps_per_epoch=391, prune=0.2)`.

    Attributes:
        times: when; the first optimizer step is 1.
        steps_per_epoch: optimizer steps in one unit of `times` (default 1: times are steps).
        grow, prune, replace, exchange, shorten, deepen: how much, see `Amount`.
    """

    times: float | Sequence[float]
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        if not self._steps or min(self._steps) < 1:
            raise ConfigError(f"At needs at least one time, none before step 1; got {self.times!r}")
        super().__post_init__()

    @cached_property
    def _steps(self) -> frozenset[int]:
        times = (self.times,) if isinstance(self.times, (int, float)) else self.times
        return frozenset(in_steps(time, self.steps_per_epoch, "a time of At") for time in times)

    def next(self, step: int) -> float:
        return min((time for time in self._steps if time > step), default=math.inf)

    def announced(self, step: int) -> float:
        return self.next(step)

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        return self.demands(step) if step in self._steps else ()

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        return self.foreseen(moment.step), state
