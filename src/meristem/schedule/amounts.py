"""How much is grown and pruned: what every schedule that asks for edits has in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from meristem.errors import ConfigError
from meristem.schedule.demand import Action, Amount, Demand, Fixed
from meristem.schedule.schedule import Schedule


@dataclass(frozen=True)
class Asking(Schedule):
    """A schedule that asks for fixed or scheduled amounts whenever its time has come.

    Attributes:
        grow: how many units to insert, see `Amount`, or None.
        prune: how many units to remove, or None. Where both are asked for at one step, units are removed first.
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
                found.append(Demand(action, amount_at(step, action, amount)))
        return tuple(found)


def amount_at(step: int, action: Action, amount: Amount) -> Fixed:
    """The amount that holds after a step; raises `ConfigError` if it makes no sense."""
    return checked(action, amount(step) if callable(amount) else amount)


def checked(action: Action, amount: Fixed) -> Fixed:
    """An amount that makes sense; raises `ConfigError` otherwise."""
    if isinstance(amount, Mapping):
        for name, count in amount.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ConfigError(
                    f"{action}= by axis name must be numbers of units (int >= 0), got {name!r}: {count!r}"
                )
        return amount
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
        raise ConfigError(
            f"{action}= must be a number of units (int >= 0), a fraction (float >= 0) or numbers of units by axis "
            f"name, got {amount!r}"
        )
    if action == "prune" and isinstance(amount, float) and amount >= 1:
        raise ConfigError(f"prune= as a fraction must be below 1.0, got {amount!r}; an int counts units")
    return amount
