"""Newborns as another choice makes them, beside incumbents whose weights are multiplied by constants."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis
from meristem.edit import Gather, Newborns, Slice


@dataclass(frozen=True, eq=False)
class Rescaling(Newborns):
    """Incumbents' entries are multiplied by constants that together leave the function as it is.

    An entry that is multiplied by c without a change of the function has its gradient divided by c, and so its state.

    Attributes:
        newborns: what newborns start from, at the scale that they are to have.
    """

    newborns: Newborns

    @abstractmethod
    def constants(self, s: Slice) -> Tensor | None:
        """By what the entries at each index along the sliced dimension are multiplied; float64, None for 1."""

    def values(self, s: Slice) -> Tensor:
        return self.newborns.values(s)

    def weight_factor(self, s: Slice) -> Tensor | None:
        return self.constants(s)

    def gradient_factor(self, s: Slice) -> Tensor | None:
        constants = self.constants(s)
        return None if constants is None else 1 / constants

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        return self.newborns.inexact(axis, gather)

    def __repr__(self) -> str:
        return repr(self.newborns)


@dataclass(frozen=True, eq=False, repr=False)
class Rescaled(Rescaling):
    """One constant for all that belongs to the axis along a dimension.

    Attributes:
        factors: by a tensor's first name and a dimension of it, the constant; 1 where none is given.
    """

    factors: Mapping[tuple[str, int], float]

    def constants(self, s: Slice) -> Tensor | None:
        factor = self.factors.get((s.layout.name, s.dim))
        if factor is None:
            return None
        units = units_along(s.layout.dims[s.dim], s.axis.index, s.sizes)
        return torch.ones(len(units), dtype=torch.float64).masked_fill(units >= 0, factor)
