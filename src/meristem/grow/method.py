"""What a growth method is: a plan for one axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap
from meristem.edit import Gather, Newborns
from meristem.signals import View


@dataclass(frozen=True)
class Growth:
    """A plan: one axis is to be gathered anew, with newborns.

    Attributes:
        axis: the axis as it is before the edit.
        gather: for every new unit the old one it copies, if any, and whether it is newborn.
        start: what newborns start from, and how the weights that they share with incumbents are divided.
    """

    axis: Axis
    gather: Gather
    start: Newborns

    @property
    def births(self) -> int:
        """How many units are newborn."""
        return sum(self.gather.newborn)

    @property
    def inexact(self) -> tuple[str, ...]:
        """Why the function is not preserved to float rounding; empty if it is."""
        return tuple(self.start.inexact(self.axis, self.gather))


class Method(ABC):
    """Proposes newborns. Methods are frozen dataclasses of their settings and never touch the model.

    Where (which axes), when and how many are decided elsewhere; the amount that a method is asked for is the amount
    that it must give, or it says why not.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why this method has no meaning for an axis, or None where it is defined."""
        return None

    @abstractmethod
    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        """A plan for `count` newborns on an axis for which the method is defined."""
