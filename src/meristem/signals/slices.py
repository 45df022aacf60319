"""From tensors to units: sums and norms over the slices that belong to each unit of an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.axes.expression import Leaf, units_along
from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals.view import View

_ENTRIES = 2**18
"""How many entries are squared at once: what is allocated on the way stays in the cache."""


def index_norms(tensor: Tensor, dim: int, p: int) -> Tensor:
    """`sum |entry| ** p` over all dimensions but one, in float32 or better.

    Returns:
        shape (tensor.shape[dim],).
    """
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    n, inner = tensor.shape[dim], tensor.shape[dim + 1 :].numel() if dim + 1 < tensor.dim() else 1
    blocks = tensor.reshape(-1, n, inner)
    if inner > 1:
        return (torch.linalg.vector_norm(blocks, p, dim=2, dtype=dtype) ** p).sum(0)
    total = tensor.new_zeros(n, dtype=dtype)
    for rows in blocks[:, :, 0].split(max(1, _ENTRIES // n)):  # far faster than a norm over the leading dimension
        rows = rows.to(dtype)
        total += (rows.square() if p == 2 else rows.abs()).sum(0)
    return total


def sum_by_unit(values: Tensor, axes: AxisMap, axis: Axis, place: Place) -> Tensor:
    """Sums of values that are given for each index of a dimension over the indices that belong to each unit of an axis.

    Args:
        values: shape (length of the place's dimension,).
        axes: the map.
        axis: one of its axes.
        place: a dimension in which the axis occurs.

    Returns:
        shape (axis.size,), dtype and device of `values`; indices that belong to no unit of the axis are left out.
        The values themselves where every index is a unit.
    """
    length = place.layout.dims[place.dim]
    if length == Leaf(axis.index):
        return values
    units = units_along(length, axis.index, axes.sizes).to(values.device)
    sums = values.new_zeros(axis.size + 1)
    return sums.index_add(0, torch.where(units < 0, axis.size, units), values)[:-1]


def unit_norms(view: View, axis: Axis, role: Role) -> Tensor:
    """The Euclidean norm of all weights of each unit that have a role towards it: its fan-in or its fan-out.

    Returns:
        shape (axis.size,), in float32 or better.
    """
    squares: Tensor | None = None
    for place in view.axes.places[axis.index]:
        if role in place.roles and not place.layout.buffer:
            norms = index_norms(view.tensors[place.layout.name], place.dim, 2)
            here = sum_by_unit(norms, view.axes, axis, place)
            squares = here if squares is None else squares + here.to(squares)
    return torch.zeros(axis.size) if squares is None else squares.sqrt()
