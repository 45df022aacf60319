"""Newborns of units that are multiplied, queries by keys say: their counterpart is zero, that of incumbents made larger
where the code divides products by a root of the size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.counterpart import Counterpart, Scale
from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Coupling, Place
from meristem.edit import Gather, Newborns, Slice
from meristem.grow.parts.rescaled import Rescaling


@dataclass(frozen=True, eq=False, repr=False)
class ProductsKept(Rescaling):
    """What the code does to products because there are more units is undone: the incumbents' counterpart is multiplied
    by the constant by which the code divides them then.

    Attributes:
        counterpart: what is multiplied.
        scale: how products change with the size.
    """

    counterpart: Counterpart
    scale: Scale

    def constants(self, s: Slice) -> Tensor | None:
        part = self.counterpart.part(s.layout.name, s.dim)
        factor = self.scale.makes_up(s.axis.size, s.sizes[s.axis.index])
        if part is None or factor == 1:
            return None
        mask = part.mask(s.layout.dims[s.dim], s.sizes)
        return torch.ones(len(mask), dtype=torch.float64).masked_fill(mask, factor)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        return [reason for reason in self.newborns.inexact(axis, gather) if reason != Coupling.SCALED.value]


def products_kept(axis: Axis, start: Newborns) -> Newborns:
    """Newborns whose counterpart is zero, with incumbents multiplied so that the function stays where it takes that,
    and where it can be done; otherwise as they are."""
    scale = scale_of(axis)
    if scale is None or axis.counterpart is None:
        return start
    return ProductsKept(start, axis.counterpart, scale)


def bare(start: Newborns) -> Newborns:
    """The newborns alone."""
    return start.newborns if isinstance(start, ProductsKept) else start


def scale_of(axis: Axis) -> Scale | None:
    """How products over an axis change with its size, if they do and it can be made up for."""
    return axis.counterpart.scale if axis.counterpart is not None and Coupling.SCALED in axis.couplings else None


def answering(axes: AxisMap, axis: Axis, place: Place) -> Tensor | None:
    """Which of the indices of one unit along a dimension belong to the counterpart of the axis; bool, or None if none
    do."""
    part = axis.counterpart.part(place.layout.name, place.dim) if axis.counterpart is not None else None
    if part is None:
        return None
    expression = place.layout.dims[place.dim]
    return part.mask(expression, axes.sizes)[units_along(expression, axis.index, axes.sizes) == 0]
