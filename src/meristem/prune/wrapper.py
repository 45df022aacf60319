"""What criteria have in common that change another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.prune.criterion import Criterion, Removal
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class Wrapper(Criterion):
    """Another criterion in every respect; subclasses change one.

    Attributes:
        criterion: the other one.
    """

    criterion: Criterion

    @property
    def requires_closure(self) -> bool:
        return self.criterion.requires_closure

    @property
    def predicts_loss(self) -> bool:
        return self.criterion.predicts_loss

    @property
    def comparable(self) -> bool:
        return self.criterion.comparable

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return self.criterion.undefined(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return self.criterion.needs(axes, axis)

    def scores(self, view: View, axis: Axis) -> Tensor:
        return self.criterion.scores(view, axis)

    def removal(self, view: View, axis: Axis, units: Sequence[int]) -> Removal:
        return self.criterion.removal(view, axis, units)


@dataclass(frozen=True)
class Ranking(Wrapper):
    """Another criterion whose scores are replaced by such that axes can be compared; they are no losses any more."""

    @property
    def comparable(self) -> bool:
        return True

    @property
    def predicts_loss(self) -> bool:
        return False
