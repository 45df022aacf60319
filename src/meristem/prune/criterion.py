"""What a criterion is: a score for every unit of an axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.edit import Gather
from meristem.errors import EditError
from meristem.signals import View


@dataclass(frozen=True)
class Removal:
    """A plan: these units of one axis are to be removed.

    Attributes:
        axis: the axis as it is before the edit.
        units: which units, ascending.
    """

    axis: Axis
    units: tuple[int, ...]

    @property
    def gather(self) -> Gather:
        """The units that stay."""
        return Gather.prune(self.axis.size, self.units)


class Criterion(ABC):
    """Scores units; those with the lowest scores die first. Criteria are frozen dataclasses of their settings."""

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why this criterion has no meaning for an axis, or None where it is defined."""
        return None

    @abstractmethod
    def scores(self, view: View, axis: Axis) -> Tensor:
        """How much each unit is worth.

        Returns:
            floating point, shape (axis.size,): larger is worth more, `inf` is never removed, NaN is refused.
        """


def require_defined(criterion: Criterion, axes: AxisMap, chosen: Iterable[Axis]) -> None:
    """Raise `EditError` naming every chosen axis for which the criterion is not defined, and why."""
    reasons = {axis.name: criterion.undefined(axes, axis) for axis in chosen}
    bad = [f"{name} ({reason})" for name, reason in reasons.items() if reason is not None]
    if bad:
        raise EditError(
            f"{type(criterion).__name__} is not defined for: {'; '.join(bad)}. "
            "Leave these axes out with `axes=`, or use another criterion."
        )
