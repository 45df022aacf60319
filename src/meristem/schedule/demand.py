"""Demand: what a schedule asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from meristem.prune.cubic import Gone
from meristem.schedule.budget import Budget

Action: TypeAlias = Literal["grow", "prune", "replace", "exchange", "shorten", "deepen"]


@dataclass(frozen=True)
class Below:
    """As many units of each axis as score at most this; an amount to prune or to replace.

    Attributes:
        threshold: in the units of the criterion's scores. A unit that scores exactly this counts, so that 0 means units
            that are worth nothing.
    """

    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", float(self.threshold))  # a whole number would be saved as a mapping is


@dataclass(frozen=True)
class Rate:
    """A share of the units of each axis that may die, added up from one edit to the next; an amount to replace.

    The share is usually less than a unit: what is owed to each axis is remembered, and a unit is replaced whenever it
    amounts to one (Dohare et al., Nature 632, 2024, arXiv 2306.13812, algorithm 1). Units that a criterion protects
    (scores of `inf`) do not count.

    Attributes:
        share: above 0, at most 1.
    """

    share: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", float(self.share))


Fixed: TypeAlias = int | float | Mapping[str, int] | Below | Rate | Gone
"""How many units: an int counts units in all, a float is a fraction of all units of the chosen axes (to prune: what
rounding leaves of it is added to the next one), a mapping gives units by axis name, `Below` and `Rate` ask the
criterion, `Gone` says what share of those at the beginning is to be gone. Of an exchange: how many floating-point
operations of a forward pass change hands at most (int), or which share of today's (float). To deepen or shorten: how
many layers."""

Amount: TypeAlias = Fixed | Callable[[int], Fixed]
"""How much, or a callable that gives it for an optimizer step."""


@dataclass(frozen=True)
class Demand:
    """What a schedule asks for at one step.

    Attributes:
        action: "grow", "prune" or "replace": units die and as many newborns take their places, in the same tensors;
            "exchange": structure of any level is sold and other structure bought; "deepen", "shorten": layers are
            inserted or removed.
        amount: units in all (int), a fraction of the units of the chosen axes (float, `Gone`), or units by axis name
            (mapping, `Below`, `Rate`): then nothing is left for an allocator to divide, but its limits hold. For an
            exchange operations (int) or a share of today's (float), for layers their number (int).
        budget: where to stop, or None. Replacement changes no size and has none; an exchange is to end there.
    """

    action: Action
    amount: Fixed
    budget: Budget | None = None
