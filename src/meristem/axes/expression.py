"""The language in which a dimension of a tensor is written: an expression over axes.

    Leaf(axis)              the axis itself
    Product(outer, inner)   row-major: index = outer_index * inner_size + inner_index, as in `heads * head_size`
    Concat(first, last)     pieces side by side, as after `torch.cat`

Expressions are immutable and hold axis numbers only; sizes are given when they are evaluated, so that one expression
serves a model before and after an edit. `ONE`, the empty product, is the constant length 1 that broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

Sizes: TypeAlias = "Sequence[int] | Mapping[int, int]"
"""Size of each axis, indexed by the axis's number."""

NEWBORN = -1
"""The source index of a unit that copies no incumbent."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One axis, by its number in the map."""

    axis: int


@dataclass(frozen=True, slots=True)
class Product:
    """Factors from the outermost to the innermost, row-major."""

    factors: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """Pieces from the first to the last."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = Leaf | Product | Concat

ONE = Product(())


def size_of(expression: Expression, sizes: Sizes) -> int:
    """The length of a dimension when axes have the given sizes."""
    if isinstance(expression, Leaf):
        return sizes[expression.axis]
    if isinstance(expression, Product):
        total = 1
        for factor in expression.factors:
            total *= size_of(factor, sizes)
        return total
    return sum(size_of(part, sizes) for part in expression.parts)


def leaves(expression: Expression) -> Iterator[int]:
    """The numbers of all axes in an expression, in order, repeated as often as they occur."""
    if isinstance(expression, Leaf):
        yield expression.axis
    else:
        children = expression.factors if isinstance(expression, Product) else expression.parts
        for child in children:
            yield from leaves(child)


def units_along(expression: Expression, axis: int, sizes: Sizes) -> torch.Tensor:
    """Which unit of `axis` each index of a dimension belongs to.

    Returns:
        int64 tensor of shape (length of the dimension,); -1 where the index does not depend on the axis.
    """
    if isinstance(expression, Leaf):
        n = sizes[expression.axis]
        return torch.arange(n) if expression.axis == axis else torch.full((n,), -1)
    if isinstance(expression, Concat):
        return torch.cat([units_along(part, axis, sizes) for part in expression.parts])
    units = torch.full((1,), -1)
    for factor in expression.factors:
        inner = units_along(factor, axis, sizes)
        units = torch.where(inner[None, :] >= 0, inner[None, :], units[:, None]).reshape(-1)
    return units


def gather_index(expression: Expression, gathers: Mapping[int, torch.Tensor], sizes: Sizes) -> torch.Tensor:
    """The old index that each new index of a dimension is gathered from.

    Args:
        expression: the dimension.
        gathers: for each edited axis the old unit of every new unit, int64, `NEWBORN` for units without a source.
        sizes: the sizes before the edit.

    Returns:
        int64 tensor of shape (new length,); `NEWBORN` wherever any factor is newborn.
    """
    if isinstance(expression, Leaf):
        found = gathers.get(expression.axis)
        return torch.arange(sizes[expression.axis]) if found is None else found
    if isinstance(expression, Concat):
        pieces, offset = [], 0
        for part in expression.parts:
            piece = gather_index(part, gathers, sizes)
            pieces.append(torch.where(piece >= 0, piece + offset, piece))
            offset += size_of(part, sizes)
        return torch.cat(pieces)
    index = torch.zeros(1, dtype=torch.int64)
    for factor in expression.factors:
        inner = gather_index(factor, gathers, sizes)
        joined = index[:, None] * size_of(factor, sizes) + inner[None, :]
        missing = (index[:, None] < 0) | (inner[None, :] < 0)
        index = torch.where(missing, NEWBORN, joined).reshape(-1)
    return index
