"""Linear operators along axes: what a gather does to tensors, with a matrix in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import Expression, Leaf, Product, leaves, size_of
from meristem.axes.map import Role, TensorLayout
from meristem.edit import Change
from meristem.grow.parts.shares import shares


@dataclass(frozen=True, eq=False)
class Widening:
    """One matrix for each axis of an edit, applied wherever the axis is.

    Along dimensions that produce or carry an axis a tensor is multiplied by its matrix; along dimensions that read it,
    by the matrix with each row times the share of the copy that it stands for, so that selections copy units and divide
    their fan-out.

    Attributes:
        matrices: by axis number, shape (units after, units before).
        shares: by axis number, shape (units after, 1).
        sizes: of all axes before the edit.
    """

    matrices: Mapping[int, Tensor]
    shares: Mapping[int, Tensor]
    sizes: tuple[int, ...]

    @classmethod
    def copying(cls, changes: Iterable[Change], sizes: tuple[int, ...], like: Tensor) -> Widening:
        """The matrices of gathers: each new unit is the old one that it copies.

        Args:
            changes: gathers whose units all have a source.
            sizes: of all axes before the edit.
            like: whose dtype and device they get.
        """
        matrices: dict[int, Tensor] = {}
        parts: dict[int, Tensor] = {}
        for change in changes:
            index = change.gather.index
            matrices[change.axis.index] = torch.eye(change.axis.size)[index].to(like)
            parts[change.axis.index] = shares(index)[:, None].to(like)
        return cls(matrices, parts, sizes)

    def touches(self, layout: TensorLayout) -> bool:
        """Whether a tensor changes."""
        return any(axis in self.matrices for dim in layout.dims for axis in leaves(dim))

    def widened(self, layout: TensorLayout, tensor: Tensor) -> Tensor:
        """A tensor after the edit. Differentiable in the matrices."""
        sizes = dict(enumerate(self.sizes))
        for axis, matrix in self.matrices.items():
            for dim, expression in enumerate(layout.dims):
                if axis in leaves(expression):
                    reads = Role.READS in layout.roles[dim].get(axis, frozenset())
                    used = matrix * self.shares[axis] if reads else matrix
                    tensor = _along(tensor, dim, expression, axis, used, sizes)
            sizes[axis] = len(matrix)
        return tensor


def _along(
    tensor: Tensor, dim: int, expression: Expression, axis: int, matrix: Tensor, sizes: Mapping[int, int]
) -> Tensor:
    """A matrix times a tensor along an axis of one of its dimensions, which is written as an expression."""
    if isinstance(expression, Leaf):
        if expression.axis != axis:
            return tensor
        return (tensor.movedim(dim, -1) @ matrix.to(tensor.dtype).T).movedim(-1, dim)
    if isinstance(expression, Product):
        lengths = [size_of(factor, sizes) for factor in expression.factors]
        tensor = tensor.unflatten(dim, lengths)
        for place, factor in enumerate(expression.factors):
            if axis in leaves(factor):
                tensor = _along(tensor, dim + place, factor, axis, matrix, sizes)
        return tensor.flatten(dim, dim + len(lengths) - 1)
    pieces = tensor.split([size_of(part, sizes) for part in expression.parts], dim)
    return torch.cat(
        [_along(piece, dim, part, axis, matrix, sizes) for piece, part in zip(pieces, expression.parts, strict=True)],
        dim,
    )
