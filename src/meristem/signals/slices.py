"""From tensors to units: sums and norms over the slices that belong to each unit of an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Place


def index_norms(tensor: Tensor, dim: int, p: int) -> Tensor:
    """`sum |entry| ** p` over all dimensions but one, in float32 or better.

    Returns:
        shape (tensor.shape[dim],).
    """
    others = [d for d in range(tensor.dim()) if d != dim]
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    if not others:
        return tensor.to(dtype).abs() ** p
    return torch.linalg.vector_norm(tensor, p, dim=others, dtype=dtype) ** p


def sum_by_unit(values: Tensor, axes: AxisMap, axis: Axis, place: Place) -> Tensor:
    """Sums of values that are given for each index of a dimension over the indices that belong to each unit of an axis.

    Args:
        values: shape (length of the place's dimension,).
        axes: the map.
        axis: one of its axes.
        place: a dimension in which the axis occurs.

    Returns:
        shape (axis.size,), dtype and device of `values`; indices that belong to no unit of the axis are left out.
    """
    units = units_along(place.layout.dims[place.dim], axis.index, axes.sizes).to(values.device)
    sums = values.new_zeros(axis.size + 1)
    return sums.index_add(0, torch.where(units < 0, axis.size, units), values)[:-1]
