"""What is measured of every unit, as one table an axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meristem.axes.map import AxisMap, Role
from meristem.diagnose.record import MEASURES
from meristem.signals.activity import ActivitySums
from meristem.signals.weight_gradients import slice_squares, weights_of


def measured(axes: AxisMap, sums: Mapping[str, ActivitySums]) -> dict[str, Tensor]:
    """The measures of every unit, in the order of `MEASURES`; of weights as they are now.

    Args:
        axes: the map.
        sums: by name of axis.

    Returns:
        by name of axis: float64, shape (measures, axis.size), on the CPU. One transfer for all axes.
    """
    if not sums:
        return {}
    used = {name: weights_of(axes, axes.by_name[name]) for name in sums}
    names = dict.fromkeys(weight for weights in used.values() for weight in weights)
    tensors = {weight: axes.model.get_parameter(weight).detach() for weight in names}
    rows = [_rows(axes, name, found, {w: tensors[w] for w in used[name]}) for name, found in sums.items()]
    device = rows[0][0].device
    together = torch.cat([found.to(device) for measure in zip(*rows, strict=True) for found in measure])
    table = together.double().cpu().view(len(MEASURES), -1)
    sizes = [len(found.gradient) for found in sums.values()]
    found = dict(zip(sums, table.split(sizes, 1), strict=True))
    for name, each in found.items():
        each[:2] /= sums[name].rows
    table[_NORMS].sqrt_()
    torch.mul(table[_SIZE], table[_FAN_OUT], out=table[_UTILITY])
    return found


def _rows(axes: AxisMap, name: str, found: ActivitySums, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """By measure: sums of activities, squares of norms, and anything of that length where the utility will be."""
    axis = axes.by_name[name]
    into, out = (slice_squares(weights, axes, axis, role) for role in (Role.PRODUCES, Role.READS))
    active, size = found.sums.unbind()
    return [active, size, found.gradient, into, out, found.fan_in_squares, found.fan_out_squares, size]


_SIZE, _FAN_OUT, _UTILITY = (MEASURES.index(name) for name in ("size", "fan_out", "utility"))
_NORMS = slice(MEASURES.index("fan_in"), MEASURES.index("fan_out_gradient") + 1)
