"""Every: again and again between a start and an end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from meristem.errors import ConfigError
from meristem.schedule.amounts import Asking
from meristem.schedule.demand import Demand
from meristem.schedule.schedule import Moment, State
from meristem.schedule.times import following, in_steps


@dataclass(frozen=True)
class Every(Asking):
    """Every so many steps, e.g. `Every(100, grow=0.1)` or `Every(1, steps_per_epoch=391, end=20, prune=0.05)`.

    Due at `start`, `start + interval`, `start + 2 * interval`, ... up to and including `end`; with the default start of
    0 for the first time after `interval`. With a short interval this is also the periodic driver of AutoGrow (Wen et
    al., KDD 2020, arXiv 1906.02909), which grows without waiting for convergence; `OnConvergence` is the other one.

    Attributes:
        interval: time from one edit to the next.
        start: first time.
        end: last time (included), or None for no end.
        steps_per_epoch: optimizer steps in one unit of the three times above (default 1: times are steps).
        grow, prune, replace, exchange, shorten, deepen: how much, see `Amount`.
    """

    interval: float
    start: float = 0
    end: float | None = None
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        interval, start, end = self._steps
        if interval < 1:
            raise ConfigError(f"Every needs an interval of at least one optimizer step, got {self.interval!r}")
        if end is not None and end < start:
            raise ConfigError(f"Every ends (end={self.end!r}) before it starts (start={self.start!r})")
        super().__post_init__()

    @cached_property
    def _steps(self) -> tuple[int, int, int | None]:
        end = None if self.end is None else in_steps(self.end, self.steps_per_epoch, "end")
        return (
            in_steps(self.interval, self.steps_per_epoch, "interval"),
            in_steps(self.start, self.steps_per_epoch, "start"),
            end,
        )

    def next(self, step: int) -> float:
        interval, start, end = self._steps
        found = following(step, start, interval)
        return math.inf if end is not None and found > end else found

    def announced(self, step: int) -> float:
        return self.next(step)

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        return self.demands(step) if step == self.next(step - 1) else ()

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        return self.foreseen(moment.step), state
