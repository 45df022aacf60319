"""Branches as what a controller inserts: how they are joined to what is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from meristem.depth.branch import Join
from meristem.depth.parallel import AddBranch, ConcatBranch
from meristem.depth.places import Places
from meristem.errors import EditError


class Joined(ABC):
    """A branch beside a module, a copy of it. Frozen dataclasses of settings implement it."""

    join: ClassVar[Join]
    """Which of the places for branches (`Places.additions`) it is for."""

    @abstractmethod
    def change(self, places: Places, module: str) -> AddBranch | ConcatBranch:
        """The branch beside a module. Raises `EditError` if there is no place for it, or the function would change."""


@dataclass(frozen=True)
class Added(Joined):
    """A silent copy of a module beside it, joined by a sum: `AddBranch`."""

    join = "add"

    def change(self, places: Places, module: str) -> AddBranch:
        """The branch."""
        return AddBranch(places, module)


@dataclass(frozen=True)
class Appended(Joined):
    """A copy of a module with units of its own beside it, joined by a concatenation: `ConcatBranch`, where that
    preserves the function.

    Attributes:
        units: how many units the branch has; 2 or more.
    """

    join = "cat"

    units: int

    def change(self, places: Places, module: str) -> ConcatBranch:
        """The branch."""
        found = ConcatBranch(places, module, self.units)
        if found.inexact():
            raise EditError(f"{found} would change the function: its units are {', '.join(found.inexact())}")
        return found
