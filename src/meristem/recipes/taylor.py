"""The criterion of `shrink`, given data: Taylor on every axis that has gates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes import Axis, AxisMap
from meristem.errors import SignalError
from meristem.prune import Criterion, Taylor, TaylorWeights
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class TaylorWherePossible(Criterion):
    """`Taylor`, and `TaylorWeights` on axes where that is not defined, such as the size of query and key heads, or
    where scoring shows that the gate is not known, as with a table that is indexed (`weight[tokens]`) and also read.

    Both predict what the loss changes by, the second as if weights were independent: their scores are of one unit, but
    between axes that were scored differently a ranking is less sure than within one.
    """

    @property
    def predicts_loss(self) -> bool:
        return True

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return self._on(axes, axis).undefined(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return self._on(axes, axis).needs(axes, axis)

    def scores(self, view: View, axis: Axis) -> Tensor:
        try:
            return self._on(view.axes, axis).scores(view, axis)
        except SignalError:
            if TaylorWeights().undefined(view.axes, axis):
                raise
            return TaylorWeights().scores(view, axis)  # which is made of the same statistic

    def _on(self, axes: AxisMap, axis: Axis) -> Criterion:
        return TaylorWeights() if Taylor().undefined(axes, axis) else Taylor()
