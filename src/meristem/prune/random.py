"""Random: the baseline that every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.prune.criterion import Criterion
from meristem.signals import View


@dataclass(frozen=True)
class Random(Criterion):
    """Scores drawn uniformly from [0, 1) with the view's generator: every unit is as likely to die as any other."""

    def scores(self, view: View, axis: Axis) -> Tensor:
        return torch.rand(axis.size, generator=view.generator, dtype=torch.float64)
