"""Gradient dormancy: units that gradients hardly reach, compared with the others of their axis, die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.prune.dormancy import relative
from meristem.prune.reading import ReadCriterion
from meristem.prune.trained import all_frozen
from meristem.signals import View
from meristem.signals.reads import Reads, by_unit


@dataclass(frozen=True)
class GradientDormancy(ReadCriterion):
    """`E|dL/dh_j| / mean_k E|dL/dh_k|`, h what is read of the units, over samples and positions; the mean over readers.

    After Liu, Wu, Obando-Ceron, Castro, Courville, Pan, "Measure gradients, not activations! Enhancing neuronal
    activity in deep reinforcement learning" (GraMa, ReGraMa), NeurIPS 2025, arXiv 2505.24061. The formula is derived
    from the abstract by analogy with `Dormancy`, not taken from the paper. Mean 1 on every axis.

    Fails: where the whole loss is solved all gradients vanish, and their ratios are noise.
    """

    @property
    def comparable(self) -> bool:
        return True

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        frozen = "no parameter of the model requires a gradient, so that none reaches them"
        return frozen if all_frozen(axes) else super().undefined(axes, axis)

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        return relative(by_unit({name: reading.gradient for name, reading in found.items()}, view.axes, axis))
