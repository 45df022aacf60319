"""How much is grown and pruned: what every schedule that asks for edits has in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from meristem.errors import ConfigError
from meristem.prune.cubic import Cubic, Gone
from meristem.schedule.demand import Action, Amount, Below, Demand, Fixed, Rate
from meristem.schedule.schedule import Schedule

ORDER: tuple[Action, ...] = ("prune", "replace", "exchange", "grow", "shorten", "deepen")
"""In which actions of one step are carried out: layers last, since they give axes other names."""

_LAYERS = ("shorten", "deepen")


@dataclass(frozen=True)
class Asking(Schedule):
    """A schedule that asks for fixed or scheduled amounts whenever its time has come.

    Attributes:
        grow: how many units to insert, see `Amount`, or None.
        prune: how many units to remove, or None.
        replace: how many units newborns take the places of, or None.
        exchange: how many floating-point operations change hands at most (int), or which share of today's (float).
        shorten: how many layers to remove, or None.
        deepen: how many layers to insert, or None. Where several are asked for at one step, units are removed first,
            then replaced, exchanged, inserted; then layers are removed and inserted.
    """

    grow: Amount | None = field(default=None, kw_only=True)
    prune: Amount | None = field(default=None, kw_only=True)
    replace: Amount | None = field(default=None, kw_only=True)
    exchange: Amount | None = field(default=None, kw_only=True)
    shorten: Amount | None = field(default=None, kw_only=True)
    deepen: Amount | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.actions:
            arguments = ", ".join(f"{action}=" for action in ORDER)
            raise ConfigError(f"{type(self).__name__} asks for nothing; give one of {arguments}")
        for action in self.actions:
            amount = getattr(self, action)
            if not callable(amount):
                checked(action, amount)
            elif isinstance(amount, Cubic) and self.next(amount.end - 1) == math.inf:
                raise ConfigError(
                    f"{type(self).__name__} is not due at step {amount.end} or later, so less would go than "
                    f"{amount} says: let it go on until then, or the cubic end at its last time"
                )

    @property
    def actions(self) -> frozenset[Action]:
        return frozenset(action for action in ORDER if getattr(self, action) is not None)

    def demands(self, step: int) -> tuple[Demand, ...]:
        """The demands of one step."""
        found: list[Demand] = []
        for action in ORDER:
            amount: Amount | None = getattr(self, action)
            if amount is not None:
                found.append(Demand(action, amount_at(step, action, amount)))
        return tuple(found)


def amount_at(step: int, action: Action, amount: Amount) -> Fixed:
    """The amount that holds after a step; raises `ConfigError` if it makes no sense."""
    return checked(action, amount(step) if callable(amount) else amount)


def checked(action: Action, amount: Fixed) -> Fixed:
    """An amount that makes sense; raises `ConfigError` otherwise."""
    if action in _LAYERS or action == "exchange":
        return _plain(action, amount)
    if isinstance(amount, (Below, Rate)):
        return _scored(action, amount)
    if isinstance(amount, Gone):
        if action != "prune" or not 0 <= amount.total < 1:
            raise ConfigError(f"Gone(total) is an amount to prune, with 0 <= total < 1; got {action}={amount!r}")
        return amount
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
    if action == "replace" and isinstance(amount, float) and amount > 1:
        raise ConfigError(f"replace= as a fraction must be at most 1.0, got {amount!r}; an int counts units")
    return amount


def _scored(action: Action, amount: Below | Rate) -> Fixed:
    if isinstance(amount, Below):
        if action == "grow" or math.isnan(amount.threshold):
            raise ConfigError(f"Below(threshold) is an amount to prune or replace, got {action}={amount!r}")
    elif action != "replace" or not 0 < amount.share <= 1:
        raise ConfigError(f"Rate(share) is an amount to replace, with 0 < share <= 1; got {action}={amount!r}")
    return amount


def _plain(action: Action, amount: Fixed) -> Fixed:
    """A number of layers, or the extent of an exchange."""
    number = isinstance(amount, (int, float)) and not isinstance(amount, bool) and math.isfinite(amount) and amount >= 0
    if action in _LAYERS and not (number and isinstance(amount, int)):
        raise ConfigError(f"{action}= must be a number of layers (int >= 0), got {amount!r}")
    if not number or (isinstance(amount, float) and amount > 1):
        raise ConfigError(
            f"exchange= must be a share of today's floating-point operations (float, at most 1.0) or a number of them "
            f"(int >= 0), got {amount!r}"
        )
    return amount
