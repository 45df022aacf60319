"""Newborns of methods that also move incumbents, or the copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.expression import leaves
from meristem.axes.map import Axis, Role, TensorLayout
from meristem.edit import Explicit, Gather, Newborns, Slice
from meristem.edit.newborns import fan_out_reasons
from meristem.grow.parts.gathered import Gathered, places
from meristem.grow.parts.shares import shares
from meristem.grow.parts.side import Side


@dataclass(frozen=True, eq=False)
class Moved(Newborns):
    """Copies share the fan-out of what they copy equally, and weights with a source are moved.

    Attributes:
        name: what made them, for people and for the history.
        shifts: by the name of a tensor, what is added to its entries with a source, in the shape that it has after an
            edit of this axis alone.
        new: values of units without a source.
        reasons: why the function is not preserved.
    """

    name: str
    shifts: Mapping[str, Tensor] = field(repr=False)
    new: Explicit = field(repr=False)
    reasons: tuple[str, ...]

    def values(self, s: Slice) -> Tensor:
        """The given values; of units that are copied they read each copy's share."""
        found = self.new.values(s)
        for dim, expression in enumerate(s.layout.dims):
            roles = s.layout.roles[dim].get(s.axis.index, frozenset())
            if dim != s.dim and Role.READS in roles and s.axis.index in leaves(expression):
                shape = [-1 if d == dim else 1 for d in range(found.dim())]
                found = found * shares(s.along(dim).cpu()).to(found).reshape(shape)
        return found

    def weight_factor(self, s: Slice) -> Tensor | None:
        """Each copy's share of the fan-out."""
        return shares(s.sources) if Role.READS in s.roles else None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        """As for copies that were not moved: each gets its share of the gradient of what it copies."""
        return None if Role.READS in s.roles else shares(s.sources)

    def shift(self, layout: TensorLayout) -> Tensor | None:
        """By how much entries are moved; those towards units of other axes born in the same edit, not at all."""
        return self.shifts.get(layout.name)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        """The reasons, and those of the axis."""
        return (*self.reasons, *fan_out_reasons(axis))

    def __repr__(self) -> str:
        return self.name


def apart(side: Side, gathered: Gathered, vectors: Tensor, copies: float = -1.0) -> dict[str, Tensor]:
    """By how much tensors change if incumbents move along vectors and their copies against them. Differentiable.

    Args:
        side: the fan-in.
        gathered: how units are duplicated; copies share the fan-out equally.
        vectors: shape (units before the edit, width).
        copies: by how much of the vectors copies move (default -1: against them).

    Returns:
        by name, in the shape after the edit.
    """
    sources = gathered.gather.index
    signs = torch.where(gathered.gather.newborn_mask, copies, 1.0) * (sources >= 0)
    signed = vectors[sources.clamp(min=0).to(vectors.device)] * signs.to(vectors)[:, None]
    found = side.laid(gathered, signed, torch.arange(len(sources)))
    for place in places(side.view, side.axis, Role.READS):
        if place.layout.name in found:  # recurrent weights: what reads copies is shared by them
            factor = gathered.factors(place, shares(sources).to(vectors))
            found[place.layout.name] = found[place.layout.name] * factor
    return found
