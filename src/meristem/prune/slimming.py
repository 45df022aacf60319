"""Network slimming: an L1 penalty on the scales of batch normalizations."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.errors import ConfigError
from meristem.prune.penalty import Penalty
from meristem.prune.scales import scale_vector


@dataclass(frozen=True)
class Slimming(Penalty):
    """`strength * sum |gamma|` over all scales; units with small scales are removed afterwards.

        slimming = Slimming()
        loss = loss + slimming(plasticity.axes)                          # in every step
        plans = removals(axes, slimming.threshold(axes, share=0.7))      # at the end

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv 1708.06519,
    equation 1. The published code adds `strength * sign(gamma)` to the gradients before the optimizer's step, which is
    the same. One threshold for the whole model is a percentile of all scales.

    Fails: the scale is arbitrary where the next weights can make up for it; weight decay on scales adds to the penalty;
    a scale of zero silences its unit only up to the shift, which stays: fine-tune after removal.

    Attributes:
        strength: in units of loss. 1e-4 (default, VGG) or 1e-5 (ResNet, DenseNet) in the paper.

    Raises:
        ConfigError: the strength is negative or not finite.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and isfinite(self.strength)):
            raise ConfigError(f"Slimming(strength=...) must be at least 0 and finite, got {self.strength!r}")

    def of(self, scales: Tensor) -> Tensor:
        """`strength * |scales|_1`."""
        return self.strength * scales.abs().sum()

    def threshold(self, axes: AxisMap, share: float) -> float:
        """The least absolute scale that is kept if this share of all units with a scale is to go.

        Args:
            axes: the map.
            share: at least 0, below 1.

        Raises:
            ConfigError: the share is out of its range.
            EditError: the model has no such scales.
        """
        if not 0 <= share < 1:
            raise ConfigError(f"Slimming.threshold: expected 0 <= share < 1, got {share!r}")
        with torch.no_grad():
            ordered = scale_vector(axes).abs().sort().values
        return float(ordered[int(share * len(ordered))])
