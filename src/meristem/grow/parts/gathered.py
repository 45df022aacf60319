"""One axis while it is gathered anew: the slices of its units, in tensors before and after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from meristem.axes.expression import Expression, gather_index, leaves, units_along
from meristem.axes.map import Axis, AxisMap, Place, Role, TensorLayout
from meristem.edit import Gather
from meristem.signals import View


@dataclass(frozen=True, eq=False)
class Gathered:
    """One axis while it is gathered anew.

    A *table* is what belongs to some units along one dimension of one tensor, as `edit.Explicit` takes it: shape
    (units, indices of one unit, *the other dimensions before the edit).

    Attributes:
        axes: the map before the edit.
        axis: the axis before the edit.
        gather: what happens to it; incumbents come first, in their old order.
    """

    axes: AxisMap
    axis: Axis
    gather: Gather

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The size of every axis after the edit."""
        return tuple(len(self.gather) if a.index == self.axis.index else a.size for a in self.axes)

    @cached_property
    def newborns(self) -> Tensor:
        """The newborn units by number; int64."""
        return self.gather.newborn_mask.nonzero().flatten()

    def rows(self, place: Place) -> Tensor:
        """The indices of every unit along a dimension after the edit; int64, shape (units, indices of one unit)."""
        units = units_along(place.layout.dims[place.dim], self.axis.index, self.sizes)
        return units.argsort(stable=True)[int((units < 0).sum()) :].reshape(len(self.gather), -1)

    def slices(self, tensor: Tensor, place: Place, units: Tensor) -> Tensor:
        """What belongs to units in a tensor after the edit: (units, indices of one unit, *the other dimensions)."""
        return tensor.movedim(place.dim, 0)[self.rows(place)[units].to(tensor.device)]

    def table(self, tensor: Tensor, place: Place, units: Tensor) -> Tensor:
        """The same without entries towards other newborns: what `Explicit` takes."""
        found = self.slices(tensor, place, units)
        for dim, expression in self._others(place):
            old = (~self._newborn(expression)).nonzero().flatten()
            found = found.index_select(_axis_in_table(place, dim), old.to(found.device))
        return found

    def laid(self, place: Place, table: Tensor, units: Tensor) -> Tensor:
        """A tensor as after the edit that holds a table where its units are, and zeros elsewhere. Differentiable.

        Copies along other dimensions get what their sources get, newborns without a source get zeros.
        """
        for dim, expression in self._others(place):
            table = _picked(table, _axis_in_table(place, dim), self._sources(expression))
        index = self.rows(place)[units].flatten().to(table.device)
        length = len(units_along(place.layout.dims[place.dim], self.axis.index, self.sizes))
        flat = table.flatten(0, 1)
        return flat.new_zeros(length, *flat.shape[1:]).index_copy(0, index, flat).movedim(0, place.dim)

    def moved(self, layout: TensorLayout, old: Tensor) -> Tensor:
        """A tensor as after the edit: copies of what stood, zeros where there is no source."""
        for dim, expression in enumerate(layout.dims):
            if self.axis.index in leaves(expression):
                old = _picked(old, dim, self._sources(expression))
        return old

    def factors(self, place: Place, by_unit: Tensor) -> Tensor:
        """Factors for units as a tensor that multiplies the whole tensor after the edit. Differentiable."""
        units = units_along(place.layout.dims[place.dim], self.axis.index, self.sizes).to(by_unit.device)
        found = torch.where(units < 0, 1.0, by_unit[units.clamp(min=0)])
        shape = [1] * len(place.layout.dims)
        shape[place.dim] = -1
        return found.reshape(shape)

    def _others(self, place: Place) -> list[tuple[int, Expression]]:
        """The other dimensions of the tensor in which the axis occurs."""
        dims = enumerate(place.layout.dims)
        return [(dim, e) for dim, e in dims if dim != place.dim and self.axis.index in leaves(e)]

    def _sources(self, expression: Expression) -> Tensor:
        return gather_index(expression, {self.axis.index: self.gather.index}, self.axes.sizes)

    def _newborn(self, expression: Expression) -> Tensor:
        units = units_along(expression, self.axis.index, self.sizes)
        return (units >= 0) & self.gather.newborn_mask[units.clamp(min=0)]


def places(view: View, axis: Axis, *roles: Role) -> list[Place]:
    """The dimensions of floating-point parameters that have any of these roles towards an axis; all without roles."""
    return [
        place
        for place in view.axes.places[axis.index]
        if not place.layout.buffer
        and view.axes.model.get_parameter(place.layout.name).is_floating_point()  # also while an edit is tried
        and (not roles or place.roles & set(roles))
    ]


def wide(tensor: Tensor) -> Tensor:
    """In float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def key(place: Place) -> tuple[str, int]:
    """By what tables are found: the tensor's name and the dimension."""
    return place.layout.name, place.dim


def _axis_in_table(place: Place, dim: int) -> int:
    """Where another dimension of the tensor is in a table."""
    return dim + 2 if dim < place.dim else dim + 1


def _picked(tensor: Tensor, dim: int, sources: Tensor) -> Tensor:
    """Gathered along one dimension, with zeros where there is no source. Differentiable."""
    sources = sources.to(tensor.device)
    found = tensor.index_select(dim, sources.clamp(min=0))
    missing = (sources < 0).nonzero().flatten()
    return found.index_fill(dim, missing, 0) if len(missing) else found
