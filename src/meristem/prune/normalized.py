"""Scores made comparable between axes, by the sizes that are usual in the literature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.errors import ConfigError
from meristem.prune.wrapper import Ranking
from meristem.signals import View


@dataclass(frozen=True)
class Normalized(Ranking):
    """Another criterion, its scores divided by one number for each axis, so that one ranking can span all axes:

        Plasticity(..., prune=Normalized(Magnitude()), allocate=meristem.allocate.Ranked())

    Attributes:
        criterion: gives the scores.
        by: "mean" (default), the largest ("max"), or "norm", the root of the sum of squares (Molchanov et al., "Pruning
            Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, arXiv 1611.06440).
            Over the units that may be removed, by absolute values; where that is 0, scores stay.

    Raises:
        ConfigError: `by` is something else.
    """

    by: Literal["mean", "max", "norm"] = "mean"

    def __post_init__(self) -> None:
        if self.by not in ("mean", "max", "norm"):
            raise ConfigError(f'Normalized(by=...) must be "mean", "max" or "norm", got {self.by!r}')

    def scores(self, view: View, axis: Axis) -> Tensor:
        scores = self.criterion.scores(view, axis)
        mortal = scores[scores < torch.inf].abs()
        if not len(mortal):
            return scores
        sizes = {"mean": mortal.mean, "max": mortal.max, "norm": mortal.norm}
        size = sizes[self.by]()
        return scores / size if size > 0 else scores
