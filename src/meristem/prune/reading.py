"""What criteria have in common that look at what is read of the units."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap
from meristem.prune.criterion import Criterion
from meristem.signals import Statistic
from meristem.signals.reads import Reads, unheard


@dataclass(frozen=True)
class ReadCriterion(Criterion):
    """Scores units by what the weights that read them are given; refused where that cannot be heard."""

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unheard(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return (Reads(axis.name),)
