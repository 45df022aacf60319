"""The weights of units on one side, as vectors: their fan-in, or their fan-out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, Place, Role
from meristem.edit import Gather
from meristem.grow.parts.gathered import Gathered, key, places, wide
from meristem.signals import View


@dataclass(frozen=True, eq=False)
class Side:
    """Some dimensions of parameters in which an axis occurs; what belongs to a unit there, side by side, as a vector.

    Attributes:
        view: the model.
        axis: the axis.
        places: the dimensions.
        shapes: of the table of each (see `Gathered`).
    """

    view: View
    axis: Axis
    places: tuple[Place, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, view: View, axis: Axis, wanted: Callable[[Place], bool]) -> Side:
        """Those dimensions of floating-point parameters that are wanted."""
        found = tuple(place for place in places(view, axis) if wanted(place))
        same, units = _unchanged(view, axis)
        shapes = tuple(same.table(view.tensors[p.layout.name], p, units).shape for p in found)
        return cls(view, axis, found, shapes)

    @property
    def width(self) -> int:
        """The number of entries of one unit."""
        return sum(shape[1:].numel() for shape in self.shapes)

    @property
    def device(self) -> torch.device:
        """That of the first tensor."""
        return self.view.tensors[self.places[0].layout.name].device

    def vectors(self) -> Tensor:
        """Those of today's units: shape (units, width), float32 or better."""
        same, units = _unchanged(self.view, self.axis)
        found = [wide(same.table(self.view.tensors[p.layout.name], p, units)).flatten(1) for p in self.places]
        return torch.cat([table.to(self.device) for table in found], 1)

    def tables(self, vectors: Tensor) -> dict[tuple[str, int], Tensor]:
        """The vectors of some units as tables. Differentiable."""
        parts = vectors.split([shape[1:].numel() for shape in self.shapes], 1)
        return {
            key(place): part.reshape(len(part), *shape[1:])
            for place, part, shape in zip(self.places, parts, self.shapes, strict=True)
        }

    def laid(self, gathered: Gathered, vectors: Tensor, units: Tensor) -> dict[str, Tensor]:
        """By name, tensors as after an edit that hold the vectors of some units and zeros elsewhere. Differentiable."""
        found: dict[str, Tensor] = {}
        for place, table in zip(self.places, self.tables(vectors).values(), strict=True):
            laid = gathered.laid(place, table, units)
            name = place.layout.name
            found[name] = found[name] + laid if name in found else laid
        return found


def produces(place: Place) -> bool:
    """Whether a dimension produces the axis."""
    return Role.PRODUCES in place.roles


def reads(place: Place) -> bool:
    """Whether a dimension reads the axis."""
    return Role.READS in place.roles


def normalized(vectors: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros stay zero."""
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _unchanged(view: View, axis: Axis) -> tuple[Gathered, Tensor]:
    return Gathered(view.axes, axis, Gather.keep(axis.size, range(axis.size))), torch.arange(axis.size)
