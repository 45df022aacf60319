"""The counterpart of units that are multiplied: what of a product of two activations acts as fan-out does.

Queries and keys are contracted over the size of a head. No weight reads such a unit; its other operand does: as long as
the keys of a newborn are zero, its queries change nothing, however random they are, as fan-out that is zero would have
it. The weights and biases that make this one operand are the counterpart of the axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import Expression, Sizes, gather_index, leaves


@dataclass(frozen=True, slots=True)
class Part:
    """Some indices of a dimension: all that have certain positions along its frozen axes and in its concatenations,
    whatever the sizes of its other axes.

    Attributes:
        kept: the frozen axes, by number.
        chosen: the dimension with all other axes of size 1: which indices belong to the part.
    """

    kept: frozenset[int]
    chosen: tuple[bool, ...]

    @classmethod
    def of(cls, mask: Tensor, expression: Expression, sizes: Sizes, kept: Iterable[int]) -> Part | None:
        """The part that holds these indices (bool, as long as the dimension), or None if they are no part."""
        found = frozenset(kept) & frozenset(leaves(expression))
        first = {axis: torch.zeros(1, dtype=torch.int64) for axis in leaves(expression) if axis not in found}
        part = cls(found, tuple(mask[gather_index(expression, first, sizes)].tolist()))
        return part if torch.equal(part.mask(expression, sizes), mask) else None

    def mask(self, expression: Expression, sizes: Sizes) -> Tensor:
        """Which indices of the dimension belong to it when axes have the given sizes; bool."""
        small = {axis: sizes[axis] if axis in self.kept else 1 for axis in leaves(expression)}
        units = {axis: torch.zeros(sizes[axis], dtype=torch.int64) for axis in small if axis not in self.kept}
        return torch.tensor(self.chosen)[gather_index(expression, units, small)]


@dataclass(frozen=True, slots=True)
class Scale:
    """By what the code multiplies products over an axis: `(size + others) ** power`, and constants.

    Attributes:
        power: -0.5 for attention as a rule; 0 if the size makes no difference.
        others: how many units of a frozen kind are counted along.
    """

    power: float = 0.0
    others: float = 0.0

    def makes_up(self, before: int, after: int) -> float:
        """By what the counterpart must be multiplied so that products stay the same when the size changes."""
        return ((after + self.others) / (before + self.others)) ** -self.power


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The counterpart of an axis. Newborns that are zero in all of it add nothing to any product over the axis.

    Attributes:
        parts: by a tensor's first name and a dimension of it, which indices belong to it.
        scale: how products change with the size, where multiplying the whole counterpart makes up for it and changes
            nothing else; None where it does not, or the change is not known.
    """

    parts: tuple[tuple[str, int, Part], ...]
    scale: Scale | None

    def part(self, name: str, dim: int) -> Part | None:
        """What belongs to it along a dimension of a tensor, or None."""
        return next((part for tensor, place, part in self.parts if (tensor, place) == (name, dim)), None)

    @property
    def names(self) -> Sequence[str]:
        """The tensors that it is in."""
        return tuple(dict.fromkeys(name for name, _, _ in self.parts))
