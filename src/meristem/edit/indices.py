"""Which old index each new index of a dimension comes from, and which new indices belong to which newborns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from meristem.axes.expression import Concat, Expression, Leaf, gather_index, leaves, size_of
from meristem.edit.gather import Gather

MOST_BLOCKS = 256
"""Up to so many pieces along a dimension are remembered as pieces."""


@dataclass(frozen=True, eq=False)
class Spots:
    """Some indices along a dimension.

    Attributes:
        index: rising; int64, on the CPU.
    """

    index: Tensor

    def __len__(self) -> int:
        return self.index.numel()

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...] | None:
        """If they are few, the runs of neighbours: (first index, length)."""
        count = len(self)
        if not count:
            return ()
        first, last = self.index[:: max(count - 1, 1)].tolist() if count > 1 else [int(self.index)] * 2
        if last - first + 1 == count:
            return ((first, count),)
        cuts = (self.index.diff() != 1).nonzero() + 1
        if len(cuts) >= MOST_BLOCKS:
            return None
        borders = [0, *cuts.flatten().tolist(), count]
        firsts = self.index[borders[:-1]].tolist()
        return tuple((first, end - start) for first, (start, end) in zip(firsts, pairwise(borders), strict=True))


@dataclass(frozen=True, eq=False)
class Along:
    """What happens along one dimension of a tensor.

    Attributes:
        index: for each new index the old one it copies, -1 for none; int64.
        safe: the same with 0 instead of -1, for `index_select`.
        fresh: the new indices without a source, or None if there are none.
        blocks: if they are few, the pieces that are copied whole: (first new index, first old index, length).
        weight, gradient: by what the entries of each new index, and their gradients, are multiplied; None for all ones.
    """

    index: Tensor
    safe: Tensor
    fresh: Spots | None
    blocks: tuple[tuple[int, int, int], ...] | None = None
    weight: Tensor | None = None
    gradient: Tensor | None = None

    @classmethod
    def of(cls, index: Tensor, device: torch.device) -> Along:
        """From an index on the CPU."""
        fresh = (index < 0).nonzero().flatten()
        moved = index.to(device)
        if not len(fresh):
            return cls(moved, moved, None, _blocks(index, sourceless=False))
        return cls(moved, moved.clamp(min=0), Spots(fresh), _blocks(index, sourceless=True))

    @classmethod
    def whole(cls, length: int, device: torch.device) -> Along:
        """Nothing happens along a dimension of this length."""
        index = torch.arange(length, device=device)
        return cls(index, index, None, ((0, 0, length),))

    def to(self, device: torch.device) -> Along:
        """The same on another device."""
        if self.index.device == device:
            return self
        return replace(self, index=self.index.to(device), safe=self.safe.to(device))

    def times(self, weight: Tensor | None, gradient: Tensor | None) -> Along:
        """With further factors."""
        if weight is None and gradient is None:
            return self
        return replace(self, weight=_product(self.weight, weight), gradient=_product(self.gradient, gradient))


Recipe = Mapping[int, Along]
"""What happens to one tensor: for each dimension that changes, what happens along it."""


@dataclass(frozen=True, eq=False)
class _Dimension:
    """What is known of one expression; filled as it is asked for.

    Attributes:
        edited: the edited axes in it, by number, in order.
        along: what all changes together do, by device.
        born: the indices of newborns of each axis, by whether only those without a source count.
    """

    edited: tuple[int, ...]
    along: dict[torch.device, Along] = field(default_factory=dict)
    born: dict[bool, Mapping[int, Spots]] = field(default_factory=dict)


class Indices:
    """The index arithmetic of one edit; what several tensors share is computed once."""

    def __init__(self, gathers: Mapping[int, Gather], sizes: Sequence[int]) -> None:
        self.gathers = gathers
        self.before = dict(enumerate(sizes))
        self.after = {**self.before, **{axis: len(gather) for axis, gather in gathers.items()}}
        self._dimensions: dict[Expression, _Dimension] = {}
        self._met: dict[int, tuple[Expression, _Dimension]] = {}  # by identity: hashing a long expression takes long

    def edited(self, expression: Expression) -> tuple[int, ...]:
        """The edited axes in an expression, by number, in order."""
        return self._dimension(expression).edited

    def along(self, expression: Expression, device: torch.device) -> Along:
        """What all changes together do along a dimension."""
        known = self._dimension(expression)
        if device not in known.along and not known.edited:
            known.along[device] = Along.whole(size_of(expression, self.before), device)
        if device not in known.along:
            gathers = {axis: self.gathers[axis].index for axis in known.edited}
            known.along[device] = Along.of(gather_index(expression, gathers, self.before), device)
        return known.along[device]

    def sources(self, expression: Expression, axis: int) -> Tensor:
        """For each new index the one it would copy if only this axis changed and the others had their new sizes."""
        gather = self.gathers[axis]
        return gather_index(expression, {axis: gather.index}, {**self.after, axis: self.before[axis]})

    def alone(self, expression: Expression, axis: int) -> tuple[Mapping[int, int], Tensor]:
        """The sizes of all axes if only this one changed, and for each new index the one that it would then be; -1
        where another axis has no source."""
        sizes = {**self.before, axis: self.after[axis]}
        others = {other: self.gathers[other].index for other in self.edited(expression) if other != axis}
        return sizes, gather_index(expression, others, sizes)

    def born(self, expression: Expression, axis: int, *, sourceless: bool) -> Tensor:
        """The new indices that belong to a newborn of an axis; only to those without a source, or to all."""
        return self.spots(expression, axis, sourceless=sourceless).index

    def spots(self, expression: Expression, axis: int, *, sourceless: bool) -> Spots:
        """As `born`, with the runs that they form."""
        known = self._dimension(expression)
        if sourceless not in known.born:
            units = {axis: self._newborn(axis, sourceless) for axis in known.edited}
            found = _marked(expression, units, self.after)
            known.born[sourceless] = {axis: Spots(index) for axis, index in found.items()}
        return known.born[sourceless].get(axis, _NOWHERE)

    def _newborn(self, axis: int, sourceless: bool) -> Tensor:
        gather = self.gathers[axis]
        return (gather.index < 0 if sourceless else gather.newborn_mask).nonzero().flatten()

    def _dimension(self, expression: Expression) -> _Dimension:
        met = self._met.get(id(expression))
        if met is None:
            found = self._dimensions.get(expression)
            if found is None:
                found = _Dimension(tuple(axis for axis in dict.fromkeys(leaves(expression)) if axis in self.gathers))
                self._dimensions[expression] = found
            met = self._met[id(expression)] = expression, found
        return met[1]


_NOWHERE = Spots(torch.zeros(0, dtype=torch.int64, device="cpu"))


def _marked(expression: Expression, units: Mapping[int, Tensor], sizes: Mapping[int, int]) -> dict[int, Tensor]:
    """The indices of a dimension that belong to given units of each axis, in rising order, for the axes in it."""
    if isinstance(expression, Leaf):
        return {expression.axis: units[expression.axis]} if expression.axis in units else {}
    found: dict[int, list[Tensor]] = {}
    if isinstance(expression, Concat):
        offset = 0
        for part in expression.parts:
            for axis, here in _marked(part, units, sizes).items():
                found.setdefault(axis, []).append(here + offset)
            offset += size_of(part, sizes)
        return {axis: pieces[0] if len(pieces) == 1 else torch.cat(pieces) for axis, pieces in found.items()}
    lengths = [size_of(factor, sizes) for factor in expression.factors]
    for place, factor in enumerate(expression.factors):
        for axis, here in _marked(factor, units, sizes).items():
            outer, inner = (torch.arange(_volume(part)) for part in (lengths[:place], lengths[place + 1 :]))
            blocks = outer[:, None] * lengths[place] + here
            found.setdefault(axis, []).append((blocks[:, :, None] * len(inner) + inner).flatten())
    return {axis: pieces[0] if len(pieces) == 1 else torch.cat(pieces).unique() for axis, pieces in found.items()}


def _blocks(index: Tensor, *, sourceless: bool) -> tuple[tuple[int, int, int], ...] | None:
    """The runs of an index that rise by one, as (first new index, first old index, length); None if they are many."""
    if not len(index):
        return ()
    rising = index
    if sourceless:  # a run without a source rises, too, far below all others
        rising = torch.where(index < 0, torch.arange(-2 * len(index), -len(index), device=index.device), index)
    cuts = (rising[1:] - rising[:-1] != 1).nonzero() + 1
    if len(cuts) >= MOST_BLOCKS:
        return None
    borders = [0, *cuts.flatten().tolist(), len(index)]
    sources = index[borders[:-1]].tolist()
    pieces = zip(borders[:-1], sources, borders[1:], strict=True)
    return tuple((start, source, end - start) for start, source, end in pieces if source >= 0)


def _volume(lengths: Sequence[int]) -> int:
    return int(torch.Size(lengths).numel())


def _product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second.to(first)
