"""The account: how many operations a net with masks takes, today and after an edit, and what single parts cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from meristem.axes.expression import leaves, size_of
from meristem.axes.map import Axis, AxisMap, TensorLayout, Work
from meristem.edit import Edit, Gather
from meristem.edit.compute import gathered
from meristem.edit.deepen import DepthChange
from meristem.edit.indices import Indices
from meristem.errors import ConfigError
from meristem.signals import sum_by_unit


@dataclass(frozen=True, eq=False)
class Account:
    """Effective operations: those of a forward pass on the example, without those with weights that are not there.

    A weight is used equally often as any other of its parameter; so a masked layer takes its density times what the
    dense one would.

    Attributes:
        axes: today's map.
        masks: which weights are there, by the name of each masked parameter; the others are dense.
    """

    axes: AxisMap
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """Effective operations today."""
        return self.after({}, self.masks)

    def after(
        self, gathers: Mapping[int, Gather], masks: Mapping[str, Tensor], changes: Sequence[DepthChange] = ()
    ) -> float:
        """Effective operations after an edit. Newborn slices of masked parameters count as dense.

        Args:
            gathers: by number of an axis.
            masks: as they are at once before it.
            changes: of the module tree. Where there are masks, what removed layers freed is counted as if they were as
                sparse as the sparsest parameter: at least so much is freed.
        """
        total = self._dense(gathers, changes)
        for change in changes:
            total += (1 - self._sparsest) * max(0.0, -self._dense({}, [change]) + self._dense({}, ()))
        indices = Indices(gathers, self.axes.sizes)
        for name, mask in masks.items():
            dims = self.axes.layouts[name].dims
            recipe = {i: indices.along(dim, mask.device) for i, dim in enumerate(dims) if indices.edited(dim)}
            absent = ~mask
            absent = gathered(absent, recipe) if recipe else absent
            total -= self.weight(name) * int(absent.count_nonzero())
        return total

    def layer(self, change: DepthChange) -> float:
        """What a change of the module tree adds; negative where it takes away, then at least so much."""
        added = self._dense({}, [change]) - self._dense({}, ())
        return added if added > 0 else added * self._sparsest

    def weight(self, name: str) -> float:
        """What one weight of a parameter costs. Raises `ConfigError` if it cannot be told."""
        found = flops_per_weight(self.axes, name)
        if found is None:
            raise ConfigError(
                f"what one weight of {name} costs cannot be told: no contraction of the module that holds it has its "
                "lengths; leave it out with Sparse(..., parameters=)"
            )
        return found

    def birth(self, axis: Axis) -> float:
        """What one more unit costs, dense in every parameter."""
        return self._with(axis, axis.size + 1) - self._with(axis, axis.size)

    def deaths(self, axis: Axis) -> Tensor:
        """What the removal of each unit frees: float64, shape (axis.size,)."""
        freed = self._with(axis, axis.size) - self._with(axis, axis.size - 1)
        found = torch.full((axis.size,), freed, dtype=torch.float64)
        for place in self.axes.places[axis.index]:
            mask = self.masks.get(place.layout.name)
            if mask is not None:
                others = [dim for dim in range(mask.dim()) if dim != place.dim]
                absent = (~mask).sum(others, dtype=torch.float64).cpu() if others else (~mask).double().cpu()
                found -= self.weight(place.layout.name) * sum_by_unit(absent, self.axes, axis, place)
        return found.clamp(min=0)

    @property
    def _sparsest(self) -> float:
        """The lowest density of a parameter."""
        return min((int(mask.count_nonzero()) / mask.numel() for mask in self.masks.values()), default=1.0)

    def _dense(self, gathers: Mapping[int, Gather], changes: Sequence[DepthChange]) -> float:
        """Operations of the dense net after an edit; one of the module tree is made, traced and taken back."""
        if changes:
            edit = Edit(self.axes)
            for number, gather in gathers.items():
                edit.gather(self.axes.axes[number], gather)
            for change in changes:
                edit.depth(change)
            return float(edit.preview().flops[1])
        sizes = list(self.axes.sizes)
        for number, gather in gathers.items():
            sizes[number] = len(gather)
        return float(self.axes.flops(sizes))

    def _with(self, axis: Axis, size: int) -> float:
        sizes = list(self.axes.sizes)
        sizes[axis.index] = size
        return float(self.axes.flops(sizes))


def flops_per_weight(axes: AxisMap, name: str) -> float | None:
    """Operations of a forward pass on the example for one weight of a parameter; None where it cannot be told: where no
    contraction of the module that holds it has exactly its lengths, or one could be another parameter's as well."""
    layout = axes.layouts[name]
    holders = _holders(layout)
    rivals = [other for other in axes.layouts.values() if _matrix(other) and not holders.isdisjoint(_holders(other))]
    totals = []
    for work in axes.work:
        users = [other for other in rivals if work.module in _holders(other) and _of(work, other, axes)]
        if layout in users and len(users) > 1:
            return None
        totals += [_of(work, layout, axes)] if layout in users else []
    return sum(totals) / prod(layout.shape(axes.sizes)) if totals else None


def _matrix(layout: TensorLayout) -> bool:
    return not layout.buffer and len(layout.dims) > 1


def _holders(layout: TensorLayout) -> set[str]:
    """The modules that hold a tensor."""
    return {known.rpartition(".")[0] for known in layout.names}


def _of(work: Work, layout: TensorLayout, axes: AxisMap) -> int:
    """The operations of a contraction, if it is one of that parameter: then its lengths are those that may be edited of
    the parameter, and every weight is used equally often."""
    count = prod(layout.shape(axes.sizes))
    lengths = sorted(axis for length in work.lengths for axis in leaves(length) if axes.axes[axis].editable)
    own = sorted(axis for dim in layout.dims for axis in leaves(dim) if axes.axes[axis].editable)
    if lengths != own:
        return 0
    total = 2 * work.fixed * prod(size_of(length, axes.sizes) for length in work.lengths)
    return total if total % (2 * count) == 0 else 0


def gathers_of(axes: AxisMap, births: Mapping[str, int], deaths: Mapping[str, Sequence[int]]) -> dict[int, Gather]:
    """What happens to each axis: these units of it die, and so many are born."""
    found = {}
    for name in dict.fromkeys((*births, *deaths)):
        axis, dead = axes.by_name[name], set(deaths.get(name, ()))
        born = births.get(name, 0)
        sources = (*(unit for unit in range(axis.size) if unit not in dead), *(-1,) * born)
        found[axis.index] = Gather(sources, (False,) * (axis.size - len(dead)) + (True,) * born)
    return found
