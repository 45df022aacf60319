"""The new tensors of an edit. Nothing here touches the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.expression import NEWBORN, Expression, gather_index, leaves, units_along
from meristem.axes.map import Axis, AxisMap, Role, TensorLayout
from meristem.edit.gather import Gather
from meristem.edit.newborns import Newborns, Slice
from meristem.errors import EditError


@dataclass(frozen=True)
class Change:
    """What happens to one axis."""

    axis: Axis
    gather: Gather
    start: Newborns


@dataclass(frozen=True, eq=False)
class Along:
    """What happens along one dimension of a tensor. All tensors lie on the device of the tensor that is gathered.

    Attributes:
        index: for each new index the old one it copies, -1 for none; int64.
        safe: the same with 0 instead of -1, for `index_select`.
        fresh: the new indices without a source, or None if there are none.
        weight, gradient: one factor per new index, or None for all ones.
    """

    index: Tensor
    safe: Tensor
    fresh: Tensor | None
    weight: Tensor | None = None
    gradient: Tensor | None = None

    @classmethod
    def of(cls, index: Tensor, device: torch.device) -> Along:
        """From an index on the CPU."""
        fresh = (index < 0).nonzero().flatten()
        moved = index.to(device)
        if not len(fresh):
            return cls(moved, moved, None)
        return cls(moved, moved.clamp(min=0), fresh.to(device))

    def to(self, device: torch.device) -> Along:
        """The same on another device."""
        if self.index.device == device:
            return self
        fresh, weight, gradient = (
            None if t is None else t.to(device) for t in (self.fresh, self.weight, self.gradient)
        )
        return Along(self.index.to(device), self.safe.to(device), fresh, weight, gradient)

    def then(self, later: Along) -> Along:
        """This, followed by `later` along the same dimension."""
        index = torch.where(later.index >= 0, self.index[later.safe], NEWBORN)
        fresh = None if self.fresh is None and later.fresh is None else (index < 0).nonzero().flatten()
        weight = _product(self.weight, later.weight, later.safe)
        return Along(index, index.clamp(min=0), fresh, weight, _product(self.gradient, later.gradient, later.safe))


Recipe = Mapping[int, Along]
"""What happens to one tensor: for each dimension that changes, what happens along it."""

Fill = Callable[[int, Tensor, Along], Tensor]
"""(dimension, tensor before it is gathered along it, what happens) -> the entries without a source."""


def gathered(
    old: Tensor, recipe: Recipe, factors: Mapping[int, Tensor] | None = None, fill: Fill | None = None
) -> Tensor:
    """A new tensor by a recipe, in the memory order of the old one.

    Args:
        old: any tensor whose dimensions are those of the recipe.
        factors: by what to multiply the entries with a source, along each dimension; nothing by default.
        fill: the entries without a source; zero by default.
    """
    factors = factors or {}
    for dim in sorted(recipe, key=lambda d: len(recipe[d].index) / max(old.shape[d], 1)):
        along = recipe[dim].to(old.device)
        new = select(old, dim, along.safe)
        if dim in factors:
            _scale(new, dim, factors[dim])
        if along.fresh is not None and fill is None:
            new.index_fill_(dim, along.fresh, 0)
        elif along.fresh is not None and fill is not None:
            new.index_copy_(dim, along.fresh, fill(dim, old, along).to(new))
        old = new
    return old


def overlaid(tensor: Tensor, recipe: Recipe, source: Tensor) -> Tensor:
    """In place: the entries without a source are taken from `source`, a tensor of the same shape."""
    for dim, along in recipe.items():
        if along.fresh is not None:
            entries = source.index_select(dim, along.fresh.to(source.device))
            tensor.index_copy_(dim, along.fresh.to(tensor.device), entries.to(tensor))
    return tensor


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """`index_select` that keeps the memory order (channels last, transposed, ...)."""
    if tensor.is_contiguous():
        return tensor.index_select(dim, index)
    order = sorted(range(tensor.dim()), key=lambda d: (-tensor.stride(d), d))
    inverse = sorted(range(tensor.dim()), key=order.__getitem__)
    return tensor.permute(order).index_select(order.index(dim), index).permute(inverse)


@dataclass(frozen=True)
class Computation:
    """Computes the new tensors of one edit.

    Everything random comes from one generator that is seeded with the seed, the number of edits before this one and
    the sizes of all axes, so that the same edit gives the same newborns and two edits do not.
    """

    axes: AxisMap
    changes: Sequence[Change]
    seed: int
    generator: torch.Generator = field(init=False)
    _memo: dict[object, tuple[Along, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        key = repr((self.seed, len(self.axes.history), self.axes.sizes)).encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        object.__setattr__(self, "generator", torch.Generator(device="cpu").manual_seed(number))

    def touches(self, layout: TensorLayout) -> bool:
        """Whether a tensor changes."""
        edited = {change.axis.index for change in self.changes}
        return any(axis in edited for dim in layout.dims for axis in leaves(dim))

    def tensor(self, layout: TensorLayout, old: Tensor) -> tuple[Tensor, Recipe]:
        """The new value of one tensor, and the recipe by which its gradient, its state and its copies follow."""
        recipe: dict[int, Along] = {}
        done: dict[int, list[Change]] = {}
        for dim, expression in enumerate(layout.dims):
            here = set(leaves(expression))
            done[dim] = [c for c in self.changes if c.axis.index in here and not c.gather.has_newborns]
            if done[dim]:
                recipe[dim], _ = self._along(expression, (), done[dim], old.device)
        new = gathered(old, recipe)
        for change, dim in self._births(layout):
            along, newborn = self._along(layout.dims[dim], done[dim], [change], old.device)
            done[dim].append(change)
            roles = layout.roles[dim].get(change.axis.index, frozenset())
            s = Slice(layout, dim, change.axis, roles, new, along.index, newborn, self.generator)
            new, along = _born(s, along, change.start)
            recipe[dim] = recipe[dim].then(along) if dim in recipe else along
        return new, recipe

    def _births(self, layout: TensorLayout) -> list[tuple[Change, int]]:
        """Where newborns appear, those that read last: nothing reads a newborn unless its start says so."""
        found = []
        for change in self.changes:
            for dim, expression in enumerate(layout.dims):
                if change.gather.has_newborns and change.axis.index in leaves(expression):
                    reads = Role.READS in layout.roles[dim].get(change.axis.index, frozenset())
                    found.append((reads, change, dim))
        return [(change, dim) for _, change, dim in sorted(found, key=lambda entry: entry[0])]

    def _along(
        self, expression: Expression, done: Iterable[Change], now: Sequence[Change], device: torch.device
    ) -> tuple[Along, Tensor]:
        """What the changes `now` do along a dimension after the changes `done`, and which new indices are newborn."""
        after = {c.axis.index: len(c.gather) for c in done}
        key = (expression, frozenset(after), tuple(c.axis.index for c in now), device)
        if key not in self._memo:
            sizes = {i: after.get(i, self.axes.sizes[i]) for i in leaves(expression)}
            index = gather_index(expression, {c.axis.index: c.gather.index for c in now}, sizes)
            newborn = torch.zeros(len(index), dtype=torch.bool)
            for change in now:
                sizes[change.axis.index] = len(change.gather)
            for change in now:
                unit = units_along(expression, change.axis.index, sizes)
                newborn |= change.gather.newborn_mask[unit.clamp(min=0)] & (unit >= 0)
            self._memo[key] = Along.of(index, device), newborn.to(device)
        return self._memo[key]


def _born(s: Slice, along: Along, start: Newborns) -> tuple[Tensor, Along]:
    """The tensor with the newborns of one axis along one dimension."""
    weight, gradient = (_factor(f, s, start) for f in (start.weight_factor(s), start.gradient_factor(s)))
    new = select(s.old, s.dim, along.safe)
    if weight is not None:
        _scale(new, s.dim, weight)
    if along.fresh is not None:
        values = start.values(s)
        if tuple(values.shape) != s.shape:
            raise EditError(
                f"{start!r} gave newborn entries of shape {tuple(values.shape)} for dimension {s.dim} of "
                f"{s.layout.name}; expected {s.shape}"
            )
        new.index_copy_(s.dim, along.fresh, values.to(new))
    return new, Along(along.index, along.safe, along.fresh, weight, gradient)


def _factor(factor: Tensor | None, s: Slice, start: Newborns) -> Tensor | None:
    if factor is not None and factor.shape != s.sources.shape:
        raise EditError(f"{start!r} gave factors of shape {tuple(factor.shape)}; expected {tuple(s.sources.shape)}")
    return factor


def _scale(tensor: Tensor, dim: int, factor: Tensor) -> None:
    shape = [1] * tensor.dim()
    shape[dim] = -1
    tensor.mul_(factor.to(tensor).reshape(shape))


def _product(first: Tensor | None, later: Tensor | None, safe: Tensor) -> Tensor | None:
    carried = None if first is None else first[safe]
    if carried is None or later is None:
        return later if carried is None else carried
    return carried * later.to(carried)
