"""Polarization: a penalty that pushes scales of batch normalizations to both ends, and a threshold in the valley."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.edit.checks import check_parameters
from meristem.errors import ConfigError
from meristem.prune.penalty import Penalty
from meristem.prune.scales import batch_norm_scales, scale_vector


def polarization(scales: Tensor, t: float) -> Tensor:
    """`R = t |gamma|_1 - |gamma - mean(gamma)|_1`.

    Its sub-gradient, 0 where a sign is undefined, is `t sign(gamma_i) - sign(gamma_i - mean) + mean_j sign(gamma_j -
    mean)`. On a box [0, a]^n it is concave; of the corners those are least where a share `1/2 - t/4` (-2 <= t <= 2) of
    the scales is a and the rest 0.

    Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer", NeurIPS 2020, section 3.

    Args:
        scales: shape (n,), n at least 1.
        t: how many end at 0.

    Returns:
        a number; differentiable.
    """
    return t * scales.abs().sum() - (scales - scales.mean()).abs().sum()


def valley(scales: Tensor, width: float = 0.01, most: float = 1.0) -> float | None:
    """The lower border of the first bin of a histogram, from the left, that is a local minimum.

    As in the paper's code: the first bin that holds at most as many as its left neighbour and at most as many as its
    right one; both neighbours exist.

    Args:
        scales: any shape; what is outside of [0, most] is not counted.
        width: of a bin, above 0.
        most: the end of the histogram.

    Returns:
        the border, or None if counts never turn from falling to rising.
    """
    bins = max(1, round(most / width))
    counts = torch.histc(scales.detach().to("cpu", torch.float64), bins, 0.0, most)
    change = counts.diff()
    turns = ((change[:-1] <= 0) & (change[1:] >= 0)).nonzero().flatten()
    return float(turns[0] + 1) * most / bins if len(turns) else None


@dataclass(frozen=True)
class Polarization(Penalty):
    """`strength * (t |gamma|_1 - |gamma - mean|_1)` over all scales of the model at once.

        polarization = Polarization()
        loss = loss + polarization(plasticity.axes)                      # in every step ...
        optimizer.step(); polarization.clamp(plasticity.axes)            # ... with the clamp after it
        plans = removals(axes, polarization.threshold(axes))             # at the end

    Zhuang, Zhang, Huang, Zeng, Shuang, Li, "Neuron-level Structured Pruning using Polarization Regularizer", NeurIPS
    2020. Where an L1 penalty shrinks all scales, this one parts them: some go to 0, the others to `most`, so that
    removing the small ones changes little. The mean is that of all scales of the model, as in the published code.

    Fails: scales should begin well inside the box (0.5 in the paper, where PyTorch begins at 1); the common mean
    couples layers; clamping also bounds the scales of residual branches; without a valley there is no threshold.

    Attributes:
        strength: in units of loss; 5e-5 for ResNet-56 (default), 3e-5 for VGG-16 on CIFAR-10.
        t: the larger, the more scales go to 0; 1.4 for ResNet-56 (default), 1.5 for VGG-16.
        most: a, the upper end of the box. Paper: 1 (default).

    Raises:
        ConfigError: the strength is negative, `|t| > 2`, or `most` is not above 0.
    """

    strength: float = 5e-5
    t: float = 1.4
    most: float = 1.0

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and isfinite(self.strength) and -2 <= self.t <= 2 and self.most > 0):
            raise ConfigError(f"expected strength >= 0, -2 <= t <= 2 and most > 0, got {self!r}")

    def of(self, scales: Tensor) -> Tensor:
        """`strength * polarization(scales, t)`."""
        return self.strength * polarization(scales, self.t)

    @torch.no_grad()
    def clamp(self, axes: AxisMap) -> None:
        """Put every scale back into [0, most], in place; to be called after every step of the optimizer.

        Raises:
            StaleMapError: the model was edited since the map was made.
        """
        for scale in check_parameters(axes, batch_norm_scales(axes)):
            scale.clamp_(0, self.most)

    def threshold(self, axes: AxisMap) -> float:
        """The valley between scales that went to 0 and those that stayed, in bins of a hundredth of the box.

        Scales are polarized if some have gone to 0, into the first bin, others stand above the valley, and there is one
        (derived: the paper's code takes the first local minimum of whatever
        histogram).

        Raises:
            ConfigError: the scales are not polarized.
            EditError: the model has no such scales.
        """
        with torch.no_grad():
            scales = scale_vector(axes).abs()
            found = valley(scales, self.most / 100, self.most)
        low, high = float(scales.min()), float(scales.max())
        if found is None or not (low < self.most / 100 and high >= found):
            raise ConfigError(
                f"the histogram of scales, from {low:.3g} to {high:.3g}, has no valley between what went to 0 and what "
                "stayed: they are not polarized yet; train longer, with a larger strength, or choose a threshold by "
                "hand"
            )
        return found
