"""What stands between the weights that produce newborns and those that read them."""

from __future__ import annotations

import torch

from meristem.axes.map import Axis, AxisMap
from meristem.axes.path import BatchNorm

_SMALL = 1e-6
_FLAT = 1e-3
"""A function that climbs less than this share as fast between 0 and `_SMALL` as between 0 and 1 is flat at 0."""


def batch_norms(axes: AxisMap, axis: Axis) -> tuple[BatchNorm, ...]:
    """The batch normalizations that carry its units."""
    return tuple(dict.fromkeys(norm for path in axes.paths[axis.index] for norm in path.batch_norms))


def not_linear_at_zero(axes: AxisMap, axis: Axis, *, today: bool = True) -> str | None:
    """Why what newborns contribute does not grow, at first, in proportion to their pre-activation; None if it does.

    The value at 0 would be added however small a newborn's fan-in is, and where the function is flat nothing would.

    Args:
        axes: the map.
        axis: one of its axes.
        today: whether it is about today's values of numbers that the model learns: else what they may change yet, a
            gate that is closed, is no reason.
    """
    for path in axes.paths[axis.index]:
        points = torch.tensor([[0.0], [_SMALL], [-_SMALL], [1.0], [-1.0]], dtype=torch.float64)
        zero, *others = path.activation(points).flatten().tolist()
        above, below, up, down = map(abs, others)
        if zero != 0:
            return "the activation function is not 0 at 0, so that newborns would add a constant"
        if (today or not path.live) and max(above, below) <= _FLAT * _SMALL * max(up, down):
            return "the activation function is flat at 0, so that newborns would add next to nothing"
    return None
