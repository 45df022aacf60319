"""What schedules have in common that look at signals: they ask for growth where the signals call for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meristem.axes.map import Axis
from meristem.errors import ConfigError
from meristem.schedule.amounts import amount_at, checked
from meristem.schedule.demand import Action, Amount, Demand
from meristem.schedule.schedule import Moment, Schedule, State
from meristem.schedule.times import following
from meristem.signals import View


@dataclass(frozen=True)
class Looking(Schedule):
    """A schedule that looks at signals every so often, and grows axes when they call for it.

    Attributes:
        interval: optimizer steps from one look to the next.
        start: the first look; with the default of 0 the first one is after `interval`.
        grow: how many units once any axis calls for growth, divided by the allocator; None (default) for as many on
            each axis as the signals call for.
    """

    interval: int = field(kw_only=True)
    start: int = field(default=0, kw_only=True)
    grow: Amount | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not self.interval >= 1:
            raise ConfigError(f"{name}(interval=...) must be at least 1, got {self.interval!r}")
        if not self.start >= 0:
            raise ConfigError(f"{name}(start=...) must be at least 0, got {self.start!r}")
        if self.grow is not None and not callable(self.grow):
            checked("grow", self.grow)

    @property
    def actions(self) -> frozenset[Action]:
        return frozenset({"grow"})

    def next(self, step: int) -> float:
        return self.looks(step)

    def looks(self, step: int) -> float:
        return following(step, self.start, self.interval)

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        if moment.step != self.looks(moment.step - 1):
            return (), state
        if moment.view is None:
            raise ConfigError(
                f"{type(self).__name__} looks at signals at step {moment.step}, but was given no view of the model; a "
                "controller must record what `needs` asks for and pass Moment(step, loss, view, chosen)"
            )
        wanted, state = self.wanted(moment.view, moment.chosen, state)
        wanted = {name: count for name, count in wanted.items() if count}
        if not wanted:
            return (), state
        return (Demand("grow", wanted if self.grow is None else amount_at(moment.step, "grow", self.grow)),), state

    @abstractmethod
    def wanted(self, view: View, chosen: Sequence[Axis], state: State) -> tuple[Mapping[str, int], State]:
        """How many units the signals call for, by axis name, and the state to remember."""
