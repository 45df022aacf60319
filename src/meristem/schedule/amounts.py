"""How much is grown and pruned: what every schedule that asks for edits has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meristem.errors import ConfigError
from meristem.schedule.schedule import Action, Amount, Demand, Schedule


@dataclass(frozen=True)
class Asking(Schedule):
    """A schedule that asks for fixed or scheduled amounts whenever its time has come.

    Attributes:
        grow: how many units to insert in all, or None.
        prune: how many units to remove in all, or None. Where both are asked for at one step, units are removed first.
    """

    grow: Amount | None = field(default=None, kw_only=True)
    prune: Amount | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.actions:
            raise ConfigError(f"{type(self).__name__} asks for nothing; give grow=, prune= or both")
        for action in self.actions:
            amount = getattr(self, action)
            if not callable(amount):
                checked(action, amount)

    @property
    def actions(self) -> frozenset[Action]:
        wanted: tuple[Action, ...] = ("prune", "grow")
        return frozenset(action for action in wanted if getattr(self, action) is not None)

    def demands(self, step: int) -> tuple[Demand, ...]:
        """The demands of one step."""
        found: list[Demand] = []
        order: tuple[Action, ...] = ("prune", "grow")
        for action in order:
            amount: Amount | None = getattr(self, action)
            if amount is not None:
                found.append(Demand(action, checked(action, amount(step) if callable(amount) else amount)))
        return tuple(found)


def checked(action: Action, amount: int | float) -> int | float:
    """An amount that makes sense; raises `ConfigError` otherwise."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
        raise ConfigError(f"{action}= must be a number of units (int >= 0) or a fraction (float >= 0), got {amount!r}")
    if action == "prune" and isinstance(amount, float) and amount >= 1:
        raise ConfigError(f"prune= as a fraction must be below 1.0, got {amount!r}; an int counts units")
    return amount


def in_steps(time: float, steps_per_epoch: int, what: str) -> int:
    """A time in optimizer steps, given in units of `steps_per_epoch` steps."""
    if not steps_per_epoch >= 1:
        raise ConfigError(f"steps_per_epoch must be at least 1, got {steps_per_epoch!r}")
    if not (math.isfinite(time) and time >= 0):
        raise ConfigError(f"{what} must be a number >= 0, got {time!r}")
    return round(time * steps_per_epoch)
