"""APoZ: units that are zero most of the time die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.prune.reading import ReadCriterion
from meristem.signals import View
from meristem.signals.reads import Reads, by_unit


@dataclass(frozen=True)
class APoZ(ReadCriterion):
    """How often the unit is not zero when it is read, over samples and positions: 1 minus the average percentage of
    zeros; the mean over its readers.

    Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures", arXiv 1607.03250, equation 1. Only where what is read may be exactly zero, because an activation
    function is so over an interval (ReLU, ReLU6, Hardswish, Hardshrink; gates made of them); what stands before it does
    not matter.

    Fails: says nothing about how much a unit matters when it is active; blind behind GELU, tanh, and norms (refused).
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        hidden = super().undefined(axes, axis)
        if hidden is not None:
            return hidden
        zeros = any(path.zeros for path in axes.paths.get(axis.index, ()))
        return None if zeros else "nothing that can be seen makes what is read of it exactly zero, as ReLU does"

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        return 1 - by_unit({name: reading.zero for name, reading in found.items()}, view.axes, axis)
