"""Demand: what a schedule asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from meristem.schedule.budget import Budget

Action: TypeAlias = Literal["grow", "prune"]

Fixed: TypeAlias = int | float | Mapping[str, int]
"""How many units: an int counts units in all, a float is a fraction of all units of the chosen axes, a mapping gives
units by axis name."""

Amount: TypeAlias = Fixed | Callable[[int], Fixed]
"""How many units, or a callable that gives them for an optimizer step."""


@dataclass(frozen=True)
class Demand:
    """What a schedule asks for at one step.

    Attributes:
        action: "grow" or "prune".
        amount: units in all (int), a fraction of the units of the chosen axes (float), or units by axis name (mapping):
            then nothing is left for an allocator to divide, but its limits hold.
        budget: where to stop, or None.
    """

    action: Action
    amount: Fixed
    budget: Budget | None = None
