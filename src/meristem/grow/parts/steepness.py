"""How steep incumbents are: how fast what readers give changes, through them, with what producers read."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, Role
from meristem.grow.parts.between import batch_norms
from meristem.signals import Move, View, sum_by_unit

_PASSES = 10
"""Power iterations; each makes the norm that is found larger, and never larger than it is."""

_TINY = 1e-30
"""Lengths below are zero."""


def steepness(view: View, axis: Axis) -> float:
    """The product of the spectral norms of all fan-ins, with batch normalizations on the way, and of all fan-outs.

    It stays as it is where every unit is doubled and both halve its fan-out. Infinite where it is zero, so that there
    is nothing to compare with, and behind a batch normalization that keeps no running statistics.
    """
    scales = _scales(view, axis)
    if scales is None:
        return inf
    fan_in = _slices(view, axis, Role.PRODUCES)
    found = spectral_norm(scales.to(fan_in)[:, None] * fan_in) * spectral_norm(_slices(view, axis, Role.READS))
    return found or inf


def longest(view: View, move: Move) -> float:
    """The amplitude at which a move has the spectral norm of the weight that moves; infinite if either is zero."""
    delta, weight = (spectral_norm(matrix.flatten(1)) for matrix in (move.laid_out, view.tensors[move.weight].double()))
    return weight / delta if weight and delta else inf


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value, from below: at least the length of the longest row. Shape (rows, columns)."""
    found = matrix[torch.linalg.vector_norm(matrix, dim=1).argmax()]
    for _ in range(_PASSES):
        found = matrix.T @ (matrix @ (found / torch.linalg.vector_norm(found).clamp(min=_TINY)))
    return float(torch.linalg.vector_norm(found)) ** 0.5


def _slices(view: View, axis: Axis, role: Role) -> Tensor:
    """All weights of each unit that have a role towards it: shape (axis.size, entries), in float32 or better."""
    found = []
    for place in view.axes.places[axis.index]:
        if role in place.roles and not place.layout.buffer:
            tensor = view.tensors[place.layout.name].movedim(place.dim, 0)
            units = units_along(place.layout.dims[place.dim], axis.index, view.axes.sizes)
            order = units.argsort(stable=True)[(units < 0).sum() :]
            whole = torch.equal(order, torch.arange(len(tensor)))
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            found.append((tensor if whole else tensor[order.to(tensor.device)]).to(dtype).reshape(axis.size, -1))
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _scales(view: View, axis: Axis) -> Tensor | None:
    """By what batch normalizations on the way multiply each unit, shape (axis.size,); None if nothing tells."""
    places = {place.layout.name: place for place in view.axes.places[axis.index]}
    squares = torch.ones(axis.size)
    for norm in batch_norms(view.axes, axis):
        if norm.weight is None or norm.variance is None:
            return None
        factors = view.tensors[norm.weight].square() / (view.tensors[norm.variance] + norm.eps)
        sums, numbers = (
            sum_by_unit(values, view.axes, axis, places[norm.weight]) for values in (factors, torch.ones_like(factors))
        )
        squares = squares.to(factors) * sums / numbers
    return squares.sqrt()
