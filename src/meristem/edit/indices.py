"""Which old index each new index of a dimension comes from, and which new indices belong to which newborns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from meristem.axes.expression import Concat, Expression, Leaf, gather_index, leaves, size_of
from meristem.edit.gather import Gather

MOST_BLOCKS = 256
"""Up to so many pieces along a dimension are remembered as pieces."""


@dataclass(frozen=True, eq=False)
class Along:
    """What happens along one dimension of a tensor.

    Attributes:
        index: for each new index the old one it copies, -1 for none; int64.
        safe: the same with 0 instead of -1, for `index_select`.
        fresh: the new indices without a source, on the CPU, or None if there are none.
        blocks: if they are few, the pieces that are copied whole: (first new index, first old index, length).
        weight, gradient: by what the entries of each new index, and their gradients, are multiplied; None for all ones.
    """

    index: Tensor
    safe: Tensor
    fresh: Tensor | None
    blocks: tuple[tuple[int, int, int], ...] | None = None
    weight: Tensor | None = None
    gradient: Tensor | None = None

    @classmethod
    def of(cls, index: Tensor, device: torch.device) -> Along:
        """From an index on the CPU."""
        fresh = (index < 0).nonzero().flatten()
        moved = index.to(device)
        if not len(fresh):
            return cls(moved, moved, None, _blocks(index))
        return cls(moved, moved.clamp(min=0), fresh, _blocks(index))

    def to(self, device: torch.device) -> Along:
        """The same on another device."""
        if self.index.device == device:
            return self
        return replace(self, index=self.index.to(device), safe=self.safe.to(device))

    def times(self, weight: Tensor | None, gradient: Tensor | None) -> Along:
        """With further factors."""
        return replace(self, weight=_product(self.weight, weight), gradient=_product(self.gradient, gradient))


Recipe = Mapping[int, Along]
"""What happens to one tensor: for each dimension that changes, what happens along it."""


class Indices:
    """The index arithmetic of one edit; what several tensors share is computed once."""

    def __init__(self, gathers: Mapping[int, Gather], sizes: Sequence[int]) -> None:
        self.gathers = gathers
        self.before = dict(enumerate(sizes))
        self.after = {**self.before, **{axis: len(gather) for axis, gather in gathers.items()}}
        self._along: dict[tuple[Expression, torch.device], Along] = {}
        self._born: dict[tuple[Expression, int, bool], Tensor] = {}

    def edited(self, expression: Expression) -> list[int]:
        """The edited axes in an expression, by number, in order."""
        return [axis for axis in dict.fromkeys(leaves(expression)) if axis in self.gathers]

    def along(self, expression: Expression, device: torch.device) -> Along:
        """What all changes together do along a dimension."""
        if (expression, device) not in self._along:
            gathers = {axis: self.gathers[axis].index for axis in self.edited(expression)}
            self._along[expression, device] = Along.of(gather_index(expression, gathers, self.before), device)
        return self._along[expression, device]

    def sources(self, expression: Expression, axis: int) -> Tensor:
        """For each new index the one it would copy if only this axis changed and the others had their new sizes."""
        gather = self.gathers[axis]
        return gather_index(expression, {axis: gather.index}, {**self.after, axis: self.before[axis]})

    def born(self, expression: Expression, axis: int, *, sourceless: bool) -> Tensor:
        """The new indices that belong to a newborn of an axis; only to those without a source, or to all."""
        key = (expression, axis, sourceless)
        if key not in self._born:
            gather = self.gathers[axis]
            mask = gather.index < 0 if sourceless else gather.newborn_mask
            found = _marked(expression, axis, mask.nonzero().flatten(), self.after)
            self._born[key] = torch.zeros(0, dtype=torch.int64) if found is None else found
        return self._born[key]


def _marked(expression: Expression, axis: int, units: Tensor, sizes: Mapping[int, int]) -> Tensor | None:
    """The indices of a dimension that belong to given units of an axis, in rising order; None if it is not in it."""
    if isinstance(expression, Leaf):
        return units if expression.axis == axis else None
    found: list[Tensor] = []
    if isinstance(expression, Concat):
        offset = 0
        for part in expression.parts:
            here = _marked(part, axis, units, sizes)
            if here is not None:
                found.append(here + offset)
            offset += size_of(part, sizes)
        return torch.cat(found) if found else None
    lengths = [size_of(factor, sizes) for factor in expression.factors]
    for place, factor in enumerate(expression.factors):
        here = _marked(factor, axis, units, sizes)
        if here is not None:
            outer, inner = (torch.arange(_volume(part)) for part in (lengths[:place], lengths[place + 1 :]))
            blocks = outer[:, None] * lengths[place] + here
            found.append((blocks[:, :, None] * len(inner) + inner).flatten())
    return None if not found else found[0] if len(found) == 1 else torch.cat(found).unique()


def _blocks(index: Tensor) -> tuple[tuple[int, int, int], ...] | None:
    """The runs of an index that rise by one, as (first new index, first old index, length); None if they are many."""
    here, next_one = index[:-1], index[1:]
    cuts = ((next_one != here + 1) & ((here >= 0) | (next_one >= 0)) | (here < 0) & (next_one >= 0)).nonzero() + 1
    if len(cuts) >= MOST_BLOCKS:
        return None
    borders = [0, *cuts.flatten().tolist(), len(index)]
    pieces = [(start, int(index[start]), end - start) for start, end in pairwise(borders)]
    return tuple(piece for piece in pieces if piece[1] >= 0)


def _volume(lengths: Sequence[int]) -> int:
    return int(torch.Size(lengths).numel())


def _product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second.to(first)
