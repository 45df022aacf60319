"""What the initialisations of NORTH* share: fan-in of the incumbents' size, zero fan-out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis
from meristem.axes.path import BatchNorm
from meristem.edit import Explicit, Gather
from meristem.grow.method import Growth, Method
from meristem.signals import Block, View, entries
from meristem.signals.finite import require_finite


def fan_ins(view: View, axis: Axis, block: Block) -> Tensor:
    """The incumbents' fan-in, composed as newborns' is: float64, shape (axis.size, block.width)."""
    dim = view.axes.layouts[block.weight].dims[block.dim]
    weight = view.tensors[block.weight]
    units = (units_along(dim, axis.index, view.axes.sizes) >= 0).to(weight.device)
    rows = weight.movedim(block.dim, 0)[units].flatten(1)
    if block.bias is not None:
        rows = torch.cat([rows, view.tensors[block.bias][units, None]], 1)
    return rows.double()


def finite(axis: Axis, moment: Tensor, block: Block, old: Tensor) -> None:
    """Raise `SignalError` if what newborns are computed from is not finite.

    Args:
        axis: where they are born.
        moment: the second moment of what they would read.
        block: how their fan-in is composed.
        old: the incumbents' fan-in.
    """
    bias = f" and {block.bias}" if block.bias is not None else ""
    require_finite(old, f"{block.weight}{bias}, which produce {axis.name!r}")
    require_finite(moment, f"the second moment of what {block.weight} reads")


def mean_norm(fan_in: Tensor) -> float:
    """The mean norm of incumbents' fan-in; that of Kaiming's weights if they are all zero or not finite."""
    norm = float(fan_in.norm(dim=1).mean())
    return norm if norm > 0 and math.isfinite(norm) else math.sqrt(2)


def plan(
    method: Method,
    view: View,
    axis: Axis,
    fan_in: tuple[Block, ...],
    incoming: Tensor,
    moments: tuple[Tensor, Tensor],
    note: str | None,
) -> Growth:
    """Newborns with this fan-in and zero fan-out.

    Args:
        method: who made them.
        view: the model.
        axis: where they are born.
        fan_in: how vectors are composed.
        incoming: shape (newborns, fan-in); none is allowed.
        moments: mean and variance of their pre-activations, for the running statistics of a batch normalization that
            comes first.
        note: why there are fewer than were asked for.
    """
    if not len(incoming):
        return Growth(axis, Gather.keep(axis.size, range(axis.size)), Explicit(repr(method), {}), note=note)
    values = entries(fan_in, incoming)
    for path in view.axes.paths[axis.index]:
        first = path.steps[0] if path.steps else None
        if isinstance(first, BatchNorm):
            running = zip((first.mean, first.variance), moments, strict=True)
            values |= {(name, 0): moment[:, None] for name, moment in running if name is not None}
    return Growth(axis, Gather.grow(axis.size, len(incoming)), Explicit(repr(method), values), note=note)
