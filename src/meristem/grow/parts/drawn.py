"""Random slices for newborns: drawn for each tensor, and rescaled to the size of the incumbents'."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from meristem.axes.expression import Concat, Expression, Leaf, leaves, units_along
from meristem.axes.map import Axis, AxisMap, Place
from meristem.edit.newborns import copied
from meristem.signals import View, index_norms, sum_by_unit


def weights(view: View, axis: Axis) -> Iterator[Place]:
    """Every dimension of a floating-point parameter in which an axis occurs."""
    for place in view.axes.places[axis.index]:
        if not place.layout.buffer and view.tensors[place.layout.name].is_floating_point():
            yield place


def meets_itself(axes: AxisMap, axis: Axis) -> str | None:
    """Why a newborn has no slice of its own: an index of some dimension belongs to two units of the axis. Or None."""
    for place in axes.places[axis.index]:
        if not place.layout.buffer and _squared(place.layout.dims[place.dim], axis.index):
            return f"in {place.layout.name} an index belongs to two of its units, so a newborn has no slice of its own"
    return None


def _squared(expression: Expression, axis: int) -> bool:
    if isinstance(expression, Leaf):
        return False
    if isinstance(expression, Concat):
        return any(_squared(part, axis) for part in expression.parts)
    return sum(axis in leaves(factor) for factor in expression.factors) > 1 or any(
        _squared(factor, axis) for factor in expression.factors
    )


def slice_shape(view: View, axis: Axis, place: Place) -> tuple[int, ...]:
    """The shape of one unit's slice: (indices of one unit along the dimension, *the other dimensions)."""
    units = units_along(place.layout.dims[place.dim], axis.index, view.axes.sizes)
    shape = view.tensors[place.layout.name].shape
    return (int((units == 0).sum()), *shape[: place.dim], *shape[place.dim + 1 :])


def mean_norm(view: View, axis: Axis, place: Place) -> float:
    """The mean L2 norm of the incumbents' slices; that of Kaiming's weights if they are all zero or not finite.

    Kaiming: standard deviation `sqrt(2 / fan-in)`, He et al. 2015, arXiv 1502.01852, equation 10.
    """
    tensor = view.tensors[place.layout.name]
    squares = sum_by_unit(index_norms(tensor, place.dim, 2), view.axes, axis, place)
    norm = float(squares.sqrt().mean())
    if norm > 0 and math.isfinite(norm):
        return norm
    entries = math.prod(slice_shape(view, axis, place))
    return math.sqrt(2 * tensor.shape[place.dim] / tensor.numel() * entries)


def drawn(view: View, axis: Axis, place: Place, count: int, scale: float) -> Tensor:
    """Random slices in uniformly distributed directions, each of norm `scale` times the incumbents' mean norm.

    Of a tensor whose newborns are copies (`TensorLayout.copied`) the incumbents' slices, one after another.

    Returns:
        float64 on the CPU, shape (count, indices of one unit, *the other dimensions), as `edit.Explicit` takes it.
    """
    shape = (count, *slice_shape(view, axis, place))
    if copied(place.layout, place.roles):
        units = units_along(place.layout.dims[place.dim], axis.index, view.axes.sizes)
        index = torch.stack([(units == newborn % axis.size).nonzero().flatten() for newborn in range(count)])
        return view.tensors[place.layout.name].detach().to("cpu", torch.float64).movedim(place.dim, 0)[index]
    if not scale:
        return torch.zeros(shape, dtype=torch.float64)
    entries = torch.randn(shape, dtype=torch.float64, generator=view.generator).flatten(1)
    norms = torch.linalg.vector_norm(entries, dim=1, keepdim=True)
    return (entries * (scale * mean_norm(view, axis, place) / norms)).reshape(shape)


__all__ = ["drawn", "mean_norm", "meets_itself", "slice_shape", "weights"]
