"""APoZ: units that are zero most of the time die first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    Architectures", arXiv 1607.03250, equation 1. Only behind activation functions that are exactly zero somewhere.

    Fails: says nothing about how much a unit matters when it is active; blind behind GELU, tanh and the like (refused).
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        hidden = super().undefined(axes, axis)
        if hidden is not None:
            return hidden
        minus = torch.tensor([-1.0])
        zeros = any(float(path.activation(minus)) == 0.0 for path in axes.paths.get(axis.index, ()))
        return None if zeros else "what follows it is never exactly zero, as it is behind ReLU"

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        return 1 - by_unit({name: reading.zero for name, reading in found.items()}, view.axes, axis)
