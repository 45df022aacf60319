"""Norm product: units die first whose fan-in and fan-out are small together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.prune.criterion import Criterion
from meristem.prune.reading import read_in_part
from meristem.prune.trained import parameter_places
from meristem.signals import View, unit_norms


@dataclass(frozen=True)
class NormProduct(Criterion):
    """`|fan-in| * |fan-out|`, Euclidean norms over all weights that produce the unit and over all that read it.

    Unlike a norm over either or over the whole group it stays the same if a unit's fan-in is multiplied by c > 0 and
    its fan-out divided by c, which behind ReLU leaves the function as it is. Biases and scales do not count.

    Derived: the path norm of Neyshabur, Salakhutdinov, Srebro, "Path-SGD", NeurIPS 2015, arXiv 1506.02617, of one unit.

    Refused: the size of query and key heads, for which the weights that read them are only a part of the fan-out.

    Fails: behind a batch normalization the norm of the fan-in means nothing: take `BatchNormScale`.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        for role in (Role.PRODUCES, Role.READS):
            if not parameter_places(axes, axis, (role,)):
                return f"no parameter {role.value} its units"
        partly = read_in_part(axis)
        return (
            None if partly is None else f"{partly}, so that the weights that read them are only a part of the fan-out"
        )

    def scores(self, view: View, axis: Axis) -> Tensor:
        fan_in, fan_out = (unit_norms(view, axis, role).cpu().double() for role in (Role.PRODUCES, Role.READS))
        return fan_in * fan_out
