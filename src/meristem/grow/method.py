"""What a growth method is: a plan for one axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Gather, Newborns
from meristem.grow.parts.untrained import untrained
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class Growth:
    """A plan: one axis is to be gathered anew, with newborns.

    Attributes:
        axis: the axis as it is before the edit.
        gather: for every new unit the old one it copies, if any, and whether it is newborn.
        start: what newborns start from, and how the weights that they share with incumbents are divided.
        gains: the predicted decrease of the loss for each newborn, where the method predicts it.
        note: why there are fewer newborns than were asked for, or None if there are not.
    """

    axis: Axis
    gather: Gather
    start: Newborns
    gains: tuple[float, ...] = ()
    note: str | None = None

    @property
    def births(self) -> int:
        """How many units are newborn."""
        return sum(self.gather.newborn)

    @property
    def inexact(self) -> tuple[str, ...]:
        """Why the function is not preserved to float rounding; empty if it is."""
        return tuple(self.start.inexact(self.axis, self.gather))


class Method(ABC):
    """Proposes newborns. Methods are frozen dataclasses of their settings and never leave a mark on the model.

    Where (which axes), when and how many are decided elsewhere; the amount that a method is asked for is the amount
    that it must give, or the plan says why not.

    Attributes:
        requires_closure: whether it evaluates the loss itself: `plasticity.step(loss, closure)` must be given one.
        one_axis_at_a_time: whether plans for several axes would spoil each other, so that each axis grows in an edit of
            its own, the last one first.
        gains_per_rate: whether gains are decreases of the loss per unit of learning rate, because newborns change
            nothing at birth, rather than decreases of the loss.
    """

    requires_closure: ClassVar[bool] = False
    one_axis_at_a_time: ClassVar[bool] = False
    gains_per_rate: ClassVar[bool] = False

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why this method has no meaning for an axis, or None where it is defined."""
        return None

    def zero_side(self) -> Role | None:
        """The side of newborns that is zero at birth: the weights that produce them, or those that read them. As long
        as it is, nothing but that side learns. Default: None, neither is."""
        return None

    def refused(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why this method may not be used for an axis: it is undefined there, or newborns would never learn."""
        reason, side = self.undefined(axes, axis), self.zero_side()
        if reason is not None or side is None:
            return reason
        stuck = untrained(axes, axis, side)
        return None if stuck is None else f"newborns would never learn: what {side.value} them is zero, and {stuck}"

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        """What has to be recorded before at most `count` newborns can be proposed. Default: nothing."""
        return ()

    @abstractmethod
    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        """A plan for `count` newborns on an axis for which the method is defined; for fewer, even none, with a note."""

    def settled(self, view: View, plans: Sequence[Growth]) -> Sequence[Growth]:
        """Plans for several axes that are carried out in one edit, adjusted to each other. Default: as they are."""
        return plans

    def gains(self, view: View, axis: Axis, count: int) -> Tensor | None:
        """The predicted decrease of the loss for each of at most `count` newborns, the best first.

        Returns:
            float64 on the CPU, shape (at most count,); None if the method predicts nothing.
        """
        return None
