"""Where the units of an axis lie among the channels that a weight reads or gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from meristem.axes.expression import Leaf, units_along
from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.axes.path import End


def dim_of(axes: AxisMap, weight: str, axis: Axis, role: Role) -> int:
    """The dimension of a weight that has this role for an axis."""
    return next(dim for dim, found in enumerate(axes.layouts[weight].roles) if role in found.get(axis.index, ()))


def spreads(end: End, dim: int) -> bool:
    """Whether an index along a dimension of a convolution's weight stands for one channel in each of its groups, as it
    does for inputs, and of transposed convolutions for outputs."""
    return end.groups > 1 and dim == 1


def groups_of(axes: AxisMap, axis: Axis, end: End, role: Role) -> tuple[int, ...]:
    """In which group of a convolution every channel of a unit lies, in the order of channels."""
    dim = dim_of(axes, end.weight, axis, role)
    units = units_along(axes.layouts[end.weight].dims[dim], axis.index, axes.sizes)
    if spreads(end, dim):
        units = units.repeat(end.groups)
    return tuple(((units == 0).nonzero().flatten() // (len(units) // end.groups)).tolist())


@dataclass(frozen=True, eq=False)
class Channels:
    """Where an axis lies in what a weight reads or gives.

    Attributes:
        units: its size.
        of: the unit of every channel, int64, the number of units where a channel belongs to none; None if channels are
            units.
    """

    units: int
    of: Tensor | None

    @classmethod
    def along(cls, axes: AxisMap, place: Place, end: End, axis: Axis) -> Channels:
        """Along the dimension of a weight that stands for what a call of it reads or gives."""
        expression = place.layout.dims[place.dim]
        if isinstance(expression, Leaf) and not spreads(end, place.dim):
            return cls(axis.size, None)
        units = units_along(expression, axis.index, axes.sizes)
        if spreads(end, place.dim):
            units = units.repeat(end.groups)
        return cls(axis.size, torch.where(units < 0, axis.size, units))

    @cached_property
    def each(self) -> int:
        """How many channels a unit has."""
        return 1 if self.of is None else int((self.of < self.units).sum()) // self.units

    def count(self, x: Tensor, dim: int) -> int:
        """How many numbers a unit has in a tensor with channels along `dim`."""
        return x.numel() // x.shape[dim] * self.each

    def sums(self, x: Tensor) -> Tensor:
        """From sums over channels, shape (..., channels), to sums over units."""
        if self.of is None:
            return x
        total = x.new_zeros(*x.shape[:-1], self.units + 1)
        return total.index_add(-1, self.of.to(x.device), x)[..., :-1]

    def rows(self, x: Tensor, dim: int) -> Tensor:
        """The numbers of each unit: from a tensor with channels along `dim` to shape (count, units)."""
        x = x.movedim(dim, -1).flatten(0, -2)
        if self.of is None:
            return x
        order = self.of.argsort(stable=True)[: self.units * self.each].to(x.device)
        return x[:, order].unflatten(1, (self.units, -1)).transpose(1, 2).flatten(0, 1)
