"""Which entries of which parameters a tensor is made of, and by which numbers it was multiplied.

Where entries lie in a tensor is known by strides, as in a view: a tensor on the meta device that has them goes through
the operators that rearrange, and PyTorch does the bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from meristem.axes.expression import Expression
from meristem.axes.scaled import Place

Name: TypeAlias = "tuple[str, int]"
"""A dimension of a parameter."""
Chain: TypeAlias = "tuple[tuple[Place, float], ...] | None"
"""By which numbers a tensor was multiplied that follow lengths, with the power of each; None: that is not known."""

_ROOM = 2**40
"""How many entries the storage of a tensor of strides has; none of them is ever held."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Which indices of a dimension of a parameter are in a tensor.

    Attributes:
        name: the dimension.
        length: its length.
        strides: how far apart along it the entries of the tensor lie, as a meta tensor; None if that is not regular.
        mask: all that are in it, if it is not.
    """

    name: Name
    length: int
    strides: Tensor | None
    mask: Tensor | None = None

    @classmethod
    def laid(cls, name: Name, length: int, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Entries:
        return cls(name, length, torch.empty(_ROOM, device="meta").as_strided(shape, strides, offset))

    def indices(self) -> Tensor:
        """Which of them are in the tensor; bool."""
        if self.strides is None:
            assert self.mask is not None
            return self.mask
        index = torch.tensor([self.strides.storage_offset()])
        for size, stride in zip(self.strides.shape, self.strides.stride(), strict=True):
            if stride:
                index = (index[:, None] + stride * torch.arange(size)).flatten()
        return torch.zeros(self.length, dtype=torch.bool).index_fill(0, index, True)

    def loose(self) -> Entries:
        """The same, no longer known where."""
        return Entries(self.name, self.length, None, self.indices())

    def viewed(self, run: Callable[[Tensor], Any]) -> list[Entries]:
        """What an operator that rearranges makes of it, one for each result."""
        if self.strides is None:
            return []
        try:
            found = run(self.strides.detach())
        except RuntimeError:  # a view of what was made contiguous before, which is no call
            return []
        made = list(found) if isinstance(found, (list, tuple)) else [found]
        here = self.strides.untyped_storage()._cdata
        return [
            Entries(self.name, self.length, t) if t.untyped_storage()._cdata == here else self.loose() for t in made
        ]


@dataclass(frozen=True, eq=False)
class Sum:
    """A tensor that is a sum of terms, each of which is zero wherever its entries in any dimension of a parameter are.

    Attributes:
        terms: for each term, the entries in each dimension.
        chain: by which numbers it was multiplied.
        static: whether it is made of parameters alone.
        mixed: whether it was multiplied by another activation, and may be zero because of that.
    """

    terms: tuple[tuple[Entries, ...], ...]
    chain: Chain = ()
    static: bool = False
    mixed: bool = False

    def mapped(self, change: Callable[[Entries], Entries]) -> Sum:
        return replace(self, terms=tuple(tuple(map(change, term)) for term in self.terms))

    def entries(self) -> Iterator[Entries]:
        return (entries for term in self.terms for entries in term)


@dataclass(eq=False)
class Site:
    """A product of two activations.

    Attributes:
        axes: over which it is contracted, by number.
        factors: what is multiplied, as far as it is known, and the dimensions of each, over numbered axes.
        chains: by what else it was multiplied, for every way on which it is used.
        powers: by which powers of lengths the operator itself multiplies it.
    """

    axes: frozenset[int]
    factors: tuple[tuple[Sum | None, tuple[frozenset[int], ...]], ...]
    chains: list[Chain] = field(default_factory=list)
    powers: tuple[tuple[Expression, float], ...] = ()


@dataclass(frozen=True)
class Held:
    """What becomes of products, as long as they are only multiplied by numbers, and added to each other."""

    sites: tuple[Site, ...]
    chain: Chain = ()

    def use(self) -> None:
        """It is used as it is."""
        for site in self.sites:
            site.chains.append(self.chain)


def note(held: dict[Name, Tensor], entries: Iterable[Entries]) -> None:
    """Add the indices of entries to those that are held."""
    for one in entries:
        found = one.indices()
        held[one.name] = held.get(one.name, torch.zeros_like(found)) | found


def expanded(entries: Entries, shape: Sequence[int]) -> Entries:
    """The same, in a tensor that is as large as one that it is broadcast to."""
    if entries.strides is None or tuple(entries.strides.shape) == tuple(shape):
        return entries
    return replace(entries, strides=entries.strides.expand(shape))


def joined(first: Chain, second: Chain) -> Chain:
    """What both multiply by; None if either is not known."""
    return None if first is None or second is None else (*first, *second)
