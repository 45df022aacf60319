"""Where the units of an axis lie among the channels that a weight reads or gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from meristem.axes.expression import Leaf, units_along
from meristem.axes.map import Axis, AxisMap, Role


def dim_of(axes: AxisMap, weight: str, axis: Axis, role: Role) -> int:
    """The dimension of a weight that has this role for an axis."""
    return next(dim for dim, found in enumerate(axes.layouts[weight].roles) if role in found.get(axis.index, ()))


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
    def along(cls, axes: AxisMap, weight: str, axis: Axis, role: Role) -> Channels:
        """Along the dimension of a weight that has this role for the axis."""
        expression = axes.layouts[weight].dims[dim_of(axes, weight, axis, role)]
        if isinstance(expression, Leaf):
            return cls(axis.size, None)
        units = units_along(expression, axis.index, axes.sizes)
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
