"""Newborns with given values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from meristem.axes.expression import Leaf, units_along
from meristem.axes.map import Axis, Role, TensorLayout
from meristem.edit.compute import widened
from meristem.edit.gather import Gather
from meristem.edit.newborns import Newborns, Slice, ZeroFanOut
from meristem.errors import EditError

Values: TypeAlias = "Mapping[tuple[str, int], Tensor]"
"""By a tensor's first name and a dimension of it: what each newborn starts from there, shape (newborns, indices of one
unit along the dimension, *the other dimensions before the edit)."""


@dataclass(frozen=True, eq=False)
class Explicit(Newborns):
    """Newborns that start from given values, and elsewhere from what another choice gives.

    Towards units of other axes that are born in the same edit the entries are zero.

    Attributes:
        name: what made the values, for people and for the history.
        entries: the values.
        reasons: why inserting the newborns changes the function; nothing if it does not.
        otherwise: what newborns start from where no values are given. Default: random fan-in, zero fan-out.
        moves: by the name of a tensor what is added to its incumbents, in the shape after an edit of the axis alone.
    """

    name: str
    entries: Values
    reasons: tuple[str, ...] = ()
    otherwise: Newborns = field(default_factory=ZeroFanOut)
    moves: Mapping[str, Tensor] = field(default_factory=dict)

    def shift(self, layout: TensorLayout) -> Tensor | None:
        """The given move of that tensor."""
        return self.moves.get(layout.name)

    def values(self, s: Slice) -> Tensor:
        """The given values, in the order of the new indices."""
        given = self.entries.get((s.layout.name, s.dim))
        if given is None:
            return self.otherwise.values(s)
        units, offsets, length = _places(s)
        expected = (int(units.max()) + 1, length, *s.old.shape[: s.dim], *s.old.shape[s.dim + 1 :])
        if tuple(given.shape) != expected:
            raise EditError(
                f"{self.name} gave newborns of shape {tuple(given.shape)} for dimension {s.dim} of {s.layout.name}; "
                f"expected {expected}"
            )
        device = s.old.device
        found = given.to(s.old)[units.to(device), offsets.clamp(min=0).to(device)].movedim(0, s.dim)
        found = found.index_fill(s.dim, (offsets < 0).nonzero().flatten().to(device), _nothing(s))
        for dim in range(found.dim()):
            if dim != s.dim:
                found = widened(found, dim, s.along(dim))
        return found

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        """The reasons that were given."""
        return self.reasons

    def first(self, count: int) -> Explicit:
        """The first newborns alone."""
        entries = {place: values[:count] for place, values in self.entries.items()}
        return replace(self, entries=entries)

    def __repr__(self) -> str:
        return self.name


def _places(s: Slice) -> tuple[Tensor, Tensor, int]:
    """For each new index without a source: which newborn it belongs to, and which of that newborn's indices it would be
    if no other axis changed (-1 for none); and how many indices a newborn would then have."""
    expression, axis = s.layout.dims[s.dim], s.axis.index
    if isinstance(expression, Leaf):
        count = len(s.positions)
        return torch.arange(count), torch.zeros(count, dtype=torch.int64), 1
    sizes, index = s.alone
    units = units_along(expression, axis, sizes)
    order = units.argsort(stable=True)
    counts = torch.bincount(units + 1)
    offsets = torch.empty_like(order)
    offsets[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[units[order] + 1]
    index = index[s.positions]
    _, newborn = units_along(expression, axis, s.sizes)[s.positions].unique(return_inverse=True)
    return newborn, torch.where(index < 0, -1, offsets[index.clamp(min=0)]), int(counts[1])


def _nothing(s: Slice) -> float:
    """What entries start from that belong to newborns of two axes at once: the neutral value if they are carried."""
    neutral = s.layout.neutral
    return neutral if neutral is not None and s.roles <= {Role.CARRIES} else 0.0
