"""The penalty that goes with the group norm: it pushes the small units of each axis to zero, and hardly the large."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import AxisMap
from meristem.errors import ConfigError, EditError
from meristem.prune.group_norm import GroupNorm, group_places
from meristem.signals import View


@dataclass(frozen=True)
class GroupSparsity:
    """`strength / 2 * sum r_j |w_j| ** 2` over all units j of all editable axes, w_j all weights of the coupled group:

        r_j = 2 ** (alpha * (max s - s_j) / (max s - min s)),      s = sqrt(GroupNorm scores of the axis)

        loss = loss + sparsity(plasticity.axes)                          # in every step

    r is a constant in the backward pass, so the gradient of a weight is `strength * r_j * w`, as the published code
    adds it: small units decay `2 ** alpha` times as fast as the largest. A weight between two axes is pushed by both.

    Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900; the form
    of r is that of the published code.

    Costs a pass over all weights of editable axes in every step, forward and backward, far more than a penalty on
    scales (`Slimming`): on a ResNet-18 and one core a third of a second, as much as the model on one or two images.

    Fails: adds to weight decay; scales of norms are pushed too, so keep the strength small.

    Attributes:
        strength: default 1e-4, the code's.
        alpha: how much harder the smallest unit is pushed than the largest, in powers of two. Default 4, the code's.

    Raises:
        ConfigError: the strength is negative, or a setting is not finite.
        EditError: (when called) the model has no editable axes with weights.
        StaleMapError: (when called) the model was edited since the map was made: give `plasticity.axes` in every step.
    """

    strength: float = 1e-4
    alpha: float = 4.0

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and isfinite(self.strength) and isfinite(self.alpha)):
            raise ConfigError(f"expected a finite strength >= 0 and a finite alpha, got {self!r}")

    def __call__(self, axes: AxisMap) -> Tensor:
        """The penalty: a number in float32 or better, on the device of the model's first editable weight."""
        view, total = View(axes), None
        for axis in axes.editable:
            places = group_places(axes, axis)
            factors = self.factors(GroupNorm().scores(view, axis)) if places else None
            for place in places:
                weight = axes.model.get_parameter(place.layout.name)
                units = units_along(place.layout.dims[place.dim], axis.index, axes.sizes)
                factor = torch.where(units < 0, 0.0, factors[units.clamp(min=0)] if factors is not None else 0.0)
                wide = torch.promote_types(weight.dtype, torch.float32)
                squares = weight.movedim(place.dim, 0).reshape(len(units), -1).to(wide).square().sum(1)
                term = self.strength / 2 * (factor.to(squares) * squares).sum()
                total = term if total is None else total + term.to(total.device)
        if total is None:
            raise EditError("expected editable axes with weights, found none")
        return total

    def factors(self, scores: Tensor) -> Tensor:
        """r from the scores of an axis: from 1 to `2 ** alpha`; all 1 where units do not differ."""
        s = scores.sqrt()
        span = s.max() - s.min()
        return 2 ** (self.alpha * (s.max() - s) / span) if span > 0 else torch.ones_like(s)
