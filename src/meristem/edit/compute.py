"""The new tensors of an edit. Nothing here touches the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

import torch
from torch import Tensor

from meristem.axes.expression import leaves
from meristem.axes.map import Axis, AxisMap, Role, TensorLayout
from meristem.edit.gather import Gather
from meristem.edit.indices import Along, Indices, Recipe, Spots
from meristem.edit.newborns import Newborns, Slice
from meristem.errors import EditError


@dataclass(frozen=True)
class Change:
    """What happens to one axis."""

    axis: Axis
    gather: Gather
    start: Newborns


SMALLEST_BLOCK = 4096
"""Pieces of at least so many entries are copied whole, which is fastest; smaller ones are picked by their index."""

Fill = Callable[[int, Along, tuple[int, ...]], Tensor]
"""(dimension, what happens along it, shape) -> the entries without a source, in that shape."""


def moved(old: Tensor, recipe: Recipe, factors: Mapping[int, Tensor] | None = None) -> Tensor:
    """A new tensor by a recipe, in the memory order of the old one; entries without a source are arbitrary.

    Args:
        old: any tensor whose dimensions are those of the recipe.
        recipe: what happens along them.
        factors: by what to multiply the entries, along each dimension; nothing by default.
    """
    blocks = [recipe[dim].blocks if dim in recipe else ((0, 0, length),) for dim, length in enumerate(old.shape)]
    found = [pieces for pieces in blocks if pieces is not None]
    if len(found) == old.dim() and prod(map(len, found)) <= max(1, old.numel() // SMALLEST_BLOCK):
        new = _copied(old, recipe, found)
    else:
        new = old
        for dim in _shrinking_first(old, recipe):
            new = select(new, dim, recipe[dim].safe.to(old.device))
    for dim, factor in (factors or {}).items():
        _scale(new, dim, factor)
    return new


def gathered(old: Tensor, recipe: Recipe, factors: Mapping[int, Tensor] | None = None) -> Tensor:
    """As `moved`, with zeros where there is no source."""
    new = moved(old, recipe, factors)
    for dim, along in recipe.items():
        if along.fresh is not None:
            put(new, dim, along.fresh, torch.zeros((), dtype=new.dtype, device=new.device))
    return new


def filled(old: Tensor, recipe: Recipe, factors: Mapping[int, Tensor], fill: Fill) -> Tensor:
    """As `moved`, with what `fill` gives where there is no source along a dimension."""
    new = moved(old, recipe, factors)
    for dim, along in recipe.items():
        if along.fresh is not None:
            shape = (*new.shape[:dim], len(along.fresh), *new.shape[dim + 1 :])
            put(new, dim, along.fresh, fill(dim, along, shape))
    return new


def overlaid(tensor: Tensor, recipe: Recipe, source: Tensor) -> Tensor:
    """In place: the entries without a source are taken from `source`, a tensor of the same shape."""
    for dim, along in recipe.items():
        if along.fresh is not None:
            put(tensor, dim, along.fresh, source.index_select(dim, along.fresh.index.to(source.device)))
    return tensor


def put(tensor: Tensor, dim: int, spots: Spots, entries: Tensor) -> None:
    """In place: these entries, or this scalar, at some indices of a dimension."""
    runs = spots.runs
    if runs is not None and len(runs) == 1:
        tensor.narrow(dim, *runs[0]).copy_(entries)
    elif runs is not None and len(runs) <= tensor.numel() // SMALLEST_BLOCK:
        done = 0
        for first, length in runs:
            tensor.narrow(dim, first, length).copy_(entries.narrow(dim, done, length) if entries.dim() else entries)
            done += length
    elif entries.dim() == 0:
        tensor.index_fill_(dim, spots.index.to(tensor.device), entries.to(tensor))
    else:
        tensor.index_copy_(dim, spots.index.to(tensor.device), entries.to(tensor))


def widened(entries: Tensor, dim: int, sources: Tensor) -> Tensor:
    """Entries gathered along a dimension, unless that is the same; zero where there is no source."""
    sources = sources.to(entries.device)
    if torch.equal(sources, torch.arange(entries.shape[dim], device=entries.device)):
        return entries
    found = entries.index_select(dim, sources.clamp(min=0))
    return found.index_fill_(dim, (sources < 0).nonzero().flatten(), 0)


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """`index_select` that keeps the memory order (channels last, transposed, ...)."""
    if tensor.is_contiguous():
        return tensor.index_select(dim, index)
    order = _memory_order(tensor)
    inverse = sorted(range(tensor.dim()), key=order.__getitem__)
    return tensor.permute(order).index_select(order.index(dim), index).permute(inverse)


@dataclass(frozen=True, eq=False)
class _Values:
    """What a growth method gives for the newborns of one axis along one dimension."""

    s: Slice
    start: Newborns

    @property
    def reads(self) -> bool:
        """Whether the dimension reads them: it decides where newborns of two axes meet."""
        return Role.READS in self.s.roles

    def put(self, new: Tensor, recipe: Recipe) -> None:
        """In place."""
        if not len(self.s.spots):
            return
        values = _checked_values(self.start.values(self.s), self.s, self.start)
        if self.s.place is None:
            put(new, self.s.dim, self.s.spots, values)
        else:
            self.s.place.copy_(values)  # does nothing if they were made there


@dataclass(frozen=True)
class _Number:
    """One number for everything along a dimension that has no source."""

    dim: int
    number: float
    reads: bool

    def put(self, new: Tensor, recipe: Recipe) -> None:
        """In place."""
        fresh = recipe[self.dim].fresh
        if fresh is not None:
            put(new, self.dim, fresh, torch.full((), self.number, dtype=new.dtype, device=new.device))


class Computation:
    """Computes the new tensors of one edit.

    Everything random comes from one generator that is seeded with the seed, the number of edits before this one and
    the sizes of all axes, so that the same edit gives the same newborns and two edits do not.
    """

    def __init__(self, axes: AxisMap, changes: Sequence[Change], seed: int) -> None:
        key = repr((seed, len(axes.history), axes.sizes)).encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        self._generator = torch.Generator(device="cpu").manual_seed(number)
        self._indices = Indices({change.axis.index: change.gather for change in changes}, axes.sizes)
        self._changes = {change.axis.index: change for change in changes}
        self._shifts = [change for change in changes if type(change.start).shift is not Newborns.shift]

    def touches(self, layout: TensorLayout) -> bool:
        """Whether a tensor changes: in a dimension, or because it is moved along."""
        if any(self._indices.edited(dim) for dim in layout.dims):
            return True
        return any(change.start.shift(layout) is not None for change in self._shifts)

    def tensor(self, layout: TensorLayout, old: Tensor) -> tuple[Tensor, Recipe]:
        """The new value of one tensor, and the recipe by which its gradient, its state and its copies follow."""
        edited = {dim: axes for dim, e in enumerate(layout.dims) if (axes := self._indices.edited(e))}
        recipe = {dim: self._indices.along(layout.dims[dim], old.device) for dim in edited}
        new = moved(old, recipe)
        fills = [fill for dim, axes in edited.items() for fill in self._fills(layout, dim, axes, old, new)]
        for s, start in ((fill.s, fill.start) for fill in fills if isinstance(fill, _Values)):
            weight = _checked_factor(start.weight_factor(s), s, start)
            recipe[s.dim] = recipe[s.dim].times(weight, _checked_factor(start.gradient_factor(s), s, start))
        for dim, along in recipe.items():
            if along.weight is not None:
                _scale(new, dim, along.weight)
        for change in self._shifts:
            shift = change.start.shift(layout)
            if shift is not None:
                new.add_(self._joint(layout, change.axis.index, shift, recipe).to(new))
        for fill in sorted(fills, key=lambda fill: fill.reads):
            fill.put(new, recipe)
        return new, recipe

    def _fills(
        self, layout: TensorLayout, dim: int, axes: Sequence[int], old: Tensor, new: Tensor
    ) -> list[_Values | _Number]:
        """What is put where nothing has a source along a dimension: one number for all axes in it, if that is known."""
        grown = [axis for axis in axes if self._changes[axis].gather.has_newborns]
        numbers = {self._number(layout, dim, axis) for axis in grown}
        if len(numbers) == 1 and (number := numbers.pop()) is not None:
            return [number]
        slices = [self._slice(layout, dim, self._changes[axis], old, new) for axis in grown]
        return [_Values(s, self._changes[s.axis.index].start) for s in slices]

    def _number(self, layout: TensorLayout, dim: int, axis: int) -> _Number | None:
        start, roles = self._changes[axis].start, layout.roles[dim].get(axis, frozenset())
        number = start.number(layout, roles) if _knows_numbers(type(start)) else None
        return None if number is None else _Number(dim, number, Role.READS in roles)

    def _joint(self, layout: TensorLayout, axis: int, entries: Tensor, recipe: Recipe) -> Tensor:
        """Entries in the shape after an edit of one axis alone, in the shape after the whole edit."""
        for dim, along in recipe.items():
            if axis in leaves(layout.dims[dim]):
                entries = widened(entries, dim, self._indices.alone(layout.dims[dim], axis)[1])
            else:
                entries = widened(entries, dim, along.index)
                if along.weight is not None:
                    entries = entries.clone()
                    _scale(entries, dim, along.weight)
        return entries

    def _slice(self, layout: TensorLayout, dim: int, change: Change, old: Tensor, new: Tensor) -> Slice:
        axis = change.axis.index
        spots = self._indices.spots(layout.dims[dim], axis, sourceless=True)
        shape = (*new.shape[:dim], len(spots), *new.shape[dim + 1 :])
        roles = layout.roles[dim].get(axis, frozenset())
        runs = spots.runs
        place = new.narrow(dim, *runs[0]) if runs is not None and len(runs) == 1 else None
        return Slice(layout, dim, change.axis, roles, old, shape, spots, self._generator, place, self._indices)


def _copied(old: Tensor, recipe: Recipe, blocks: Sequence[Sequence[tuple[int, int, int]]]) -> Tensor:
    """As `moved`, by copying every combination of pieces along the dimensions."""
    shape = [len(recipe[dim].index) if dim in recipe else length for dim, length in enumerate(old.shape)]
    new = torch.empty_permuted(shape, _memory_order(old), dtype=old.dtype, device=old.device)
    for pieces in product(*blocks):
        target, source = new, old
        for dim, (to, start, length) in enumerate(pieces):
            target, source = target.narrow(dim, to, length), source.narrow(dim, start, length)
        target.copy_(source)
    return new


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions, the one with the largest stride first."""
    return sorted(range(tensor.dim()), key=lambda dim: (-tensor.stride(dim), dim))


def _shrinking_first(tensor: Tensor, recipe: Recipe) -> list[int]:
    """The dimensions of a recipe, those that shrink most first."""
    return sorted(recipe, key=lambda dim: len(recipe[dim].index) / max(tensor.shape[dim], 1))


@cache
def _knows_numbers(kind: type[Newborns]) -> bool:
    """Whether `number` tells what `values` gives and nothing is scaled: no subclass overrides one without the other."""
    owner = {
        name: next(depth for depth, base in enumerate(kind.__mro__) if name in vars(base))
        for name in ("number", "values", "weight_factor", "gradient_factor")
    }
    return owner["number"] <= min(owner.values())


def _checked_values(values: Tensor, s: Slice, start: Newborns) -> Tensor:
    if tuple(values.shape) == s.shape:
        return values
    raise EditError(
        f"{start!r} gave newborn entries of shape {tuple(values.shape)} for dimension {s.dim} of {s.layout.name}; "
        f"expected {s.shape}"
    )


def _checked_factor(factor: Tensor | None, s: Slice, start: Newborns) -> Tensor | None:
    if factor is None or factor.shape == s.sources.shape:
        return factor
    raise EditError(f"{start!r} gave factors of shape {tuple(factor.shape)}; expected {tuple(s.sources.shape)}")


def _scale(tensor: Tensor, dim: int, factor: Tensor) -> None:
    shape = [1] * tensor.dim()
    shape[dim] = -1
    tensor.mul_(factor.to(tensor).reshape(shape))
