"""Orthogonal growth: newborns read in directions in which no incumbent of their layer reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Explicit, Gather
from meristem.grow.method import Growth, Method
from meristem.grow.parts.drawn import mean_norm, meets_itself, slice_shape, weights
from meristem.signals import View
from meristem.signals.finite import require_finite


@dataclass(frozen=True)
class NorthWeight(Method):
    """Fan-in rows are random, orthogonal to the rows of all incumbents and to each other; fan-out is zero.

    The "Weight" initialization of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539: random rows made orthogonal by Gram-Schmidt to the row space of W, so
    that `W_new W^T = 0`, then scaled to the mean norm of the incumbents' slices. Rows of a convolution are its kernels,
    flattened; of a unit with several rows (a head) every row is made orthogonal. Where several tensors produce the
    axis (a gate and a value, a residual stream), it holds in each; everything else is as in `ZeroFanOut`.

    Preserved: the function, on axes without couplings; also every incumbent's gradient.
    Gives: as many newborns as directions are left, `(columns - rank) / (rows per unit)` for the tensor with the
    fewest, with a note if that is less than was asked for. A layer with at least as many units as inputs leaves none:
    the directions that the methods above compute from activations are the remedy there, or `ZeroFanOut`.

    Raises:
        EditError: (from the controller) no weights but those that also read the axis produce it.
        SignalError: (when it proposes) a weight that produces it is not finite.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        if any(_produces(place) for place in axes.places[axis.index]):
            return meets_itself(axes, axis)
        return "no weights produce it, so there are no rows to be orthogonal to"

    def zero_side(self) -> Role:
        return Role.READS

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        places = [place for place in weights(view, axis) if _produces(place)]
        spaces = [_row_space(place.layout.name, view.tensors[place.layout.name], place.dim) for place in places]
        free = [space.shape[1] - space.shape[0] for space in spaces]
        room = [left // slice_shape(view, axis, place)[0] for left, place in zip(free, places, strict=True)]
        tightest = min(range(len(places)), key=lambda number: room[number])
        given = min(count, room[tightest])
        note = None
        if given < count:
            note = (
                f"{axis.name}: {given} of {count}; only {free[tightest]} directions are orthogonal to the rows of "
                f"{places[tightest].layout.name}, enough for {room[tightest]} units"
            )
        if not given:
            return Growth(axis, Gather.keep(axis.size, range(axis.size)), Explicit(repr(self), {}), note=note)
        entries = {
            (place.layout.name, place.dim): _rows(view, axis, place, given, space)
            for place, space in zip(places, spaces, strict=True)
        }
        reasons = sorted(coupling.value for coupling in axis.couplings)
        start = Explicit(repr(self), entries, tuple(reasons))
        return Growth(axis, Gather.grow(axis.size, given), start, note=note)


def _produces(place: Place) -> bool:
    return not place.layout.buffer and Role.PRODUCES in place.roles and Role.READS not in place.roles


def _row_space(name: str, tensor: Tensor, dim: int) -> Tensor:
    """An orthonormal basis of the space that the rows along a dimension span.

    Returns:
        float64 on the CPU, shape (rank, columns). Rows count as dependent up to the rounding of the tensor's own type.
    """
    rows = require_finite(tensor, name).movedim(dim, 0).reshape(tensor.shape[dim], -1).to("cpu", torch.float64)
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    tolerance = max(rows.shape) * torch.finfo(tensor.dtype).eps * sizes.max()
    return directions[: int((sizes > tolerance).sum())]


def _rows(view: View, axis: Axis, place: Place, count: int, space: Tensor) -> Tensor:
    """Random orthogonal rows outside a space; each unit's slice has the incumbents' mean norm."""
    shape = (count, *slice_shape(view, axis, place))
    rows = torch.randn(count * shape[1], space.shape[1], dtype=torch.float64, generator=view.generator)
    for _ in range(2):  # once more, for what rounding left
        rows = torch.linalg.qr((rows - rows @ space.T @ space).T).Q.T
    return rows.reshape(shape) * (mean_norm(view, axis, place) / shape[1] ** 0.5)
