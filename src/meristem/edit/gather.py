"""What happens to the units of one axis: each new unit copies an old one or is newborn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index as as_int

import torch
from torch import Tensor

from meristem.axes.expression import NEWBORN
from meristem.errors import EditError

MAX_UNITS = 2**24
"""No axis may become longer than this; a guard against hostile histories and slips of the pen."""


@dataclass(frozen=True)
class Gather:
    """The units of one axis after an edit.

    Attributes:
        sources: for each new unit the old unit it copies, or `NEWBORN` (-1): it starts from nothing.
        newborn: which of the new units an edit inserted. A unit without a source is always newborn; a duplicate, as in
            Net2Net, is newborn and has a source.

    Raises:
        EditError: no unit is left, the two lengths differ, a source is below -1, a unit without a source is not called
            newborn, or two incumbents copy the same unit.
    """

    sources: tuple[int, ...]
    newborn: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise EditError("an edit must leave at least one unit on every axis; this one leaves none")
        if len(self.sources) != len(self.newborn):
            raise EditError(f"{len(self.sources)} sources but {len(self.newborn)} newborn flags; give one a unit")
        if min(self.sources) < NEWBORN:
            raise EditError(f"a source is an old unit (0, 1, ...) or {NEWBORN} for none; got {min(self.sources)}")
        incumbents = [source for source, new in zip(self.sources, self.newborn, strict=True) if not new]
        if NEWBORN in incumbents:
            raise EditError("a unit without a source must be flagged newborn")
        if len(set(incumbents)) != len(incumbents):
            raise EditError("two incumbents copy the same old unit; flag the duplicate as newborn")

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def keep(cls, size: int, units: Iterable[int] | Tensor) -> Gather:
        """Only these of `size` units stay, in their old order."""
        kept = sorted(unit_numbers(units, size))
        return cls(tuple(kept), (False,) * len(kept))

    @classmethod
    def prune(cls, size: int, units: Iterable[int] | Tensor) -> Gather:
        """These of `size` units go, the others keep their order."""
        gone = set(unit_numbers(units, size))
        if len(gone) == size:
            raise EditError(f"an edit must leave at least one unit on every axis; these are all {size} of them")
        return cls.keep(size, [unit for unit in range(size) if unit not in gone])

    @classmethod
    def grow(cls, size: int, count: int) -> Gather:
        """All `size` units stay and `count` units without a source are appended."""
        count = whole_number(count, "the number of newborn units")
        if not 1 <= count <= MAX_UNITS - size:
            raise EditError(f"expected a number of newborn units from 1 to {MAX_UNITS - size}, got {count}")
        return cls((*range(size), *(NEWBORN,) * count), (False,) * size + (True,) * count)

    @classmethod
    def permute(cls, order: Iterable[int] | Tensor) -> Gather:
        """All units stay; the new unit `i` is the old unit `order[i]`."""
        order = order.tolist() if isinstance(order, Tensor) else list(order)
        return cls(tuple(unit_numbers(order, len(order))), (False,) * len(order))

    @classmethod
    def duplicate(cls, size: int, parents: Iterable[int] | Tensor) -> Gather:
        """All `size` units stay and a newborn copy of each parent is appended; a parent may occur several times."""
        copies = _integers(parents)
        _check_range(copies, size)
        return cls((*range(size), *copies), (False,) * size + (True,) * len(copies))

    def then(self, other: Gather) -> Gather:
        """This gather followed by another one, as one."""
        if max(other.sources) >= len(self):
            raise EditError(f"unknown unit {max(other.sources)}: the axis has {len(self)} units at that point")
        pairs = list(zip(other.sources, other.newborn, strict=True))
        sources = tuple(self.sources[source] if source >= 0 else NEWBORN for source, _ in pairs)
        newborn = tuple(new or self.newborn[source] for source, new in pairs)
        return Gather(sources, newborn)

    @cached_property
    def index(self) -> Tensor:
        """The sources as an int64 tensor of shape (new units,)."""
        return torch.tensor(self.sources, dtype=torch.int64, device="cpu")

    @cached_property
    def newborn_mask(self) -> Tensor:
        """The newborn flags as a bool tensor of shape (new units,)."""
        return torch.tensor(self.newborn, dtype=torch.bool, device="cpu")

    @cached_property
    def has_newborns(self) -> bool:
        """Whether any unit is newborn."""
        return any(self.newborn)

    def is_identity(self, size: int) -> bool:
        """Whether nothing changes on an axis of `size` units."""
        return not self.has_newborns and self.sources == tuple(range(size))


class Nothing(Gather):
    """No unit stays. Only for an axis of which the same edit takes away, with modules, all that produces it."""

    def __init__(self) -> None:
        super().__init__((), ())

    def __post_init__(self) -> None:
        """There is nothing to check."""


def whole_number(value: object, what: str) -> int:
    """An exact integer, never a bool or a float. Raises `EditError` otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return as_int(value)  # type: ignore[arg-type]
    except TypeError:
        raise EditError(f"{what} must be a whole number, got {value!r}") from None


def unit_numbers(units: Iterable[int] | Tensor, size: int) -> list[int]:
    """Distinct unit numbers of an axis of `size` units; a bool tensor of that length selects units by a mask.

    Raises:
        EditError: none given, one unknown or given twice, or a mask of the wrong length.
    """
    if isinstance(units, Tensor) and units.dtype == torch.bool:
        if units.shape != (size,):
            raise EditError(f"a mask over {size} units must have shape ({size},), got {tuple(units.shape)}")
        units = units.nonzero().flatten()
    numbers = _integers(units)
    _check_range(numbers, size)
    if len(set(numbers)) != len(numbers):
        twice = next(number for number, count in Counter(numbers).items() if count > 1)
        raise EditError(f"unit {twice} is given twice")
    return numbers


def _integers(units: Iterable[int] | Tensor) -> list[int]:
    """A non-empty list of integers."""
    if isinstance(units, Tensor):
        if units.dim() != 1 or units.is_floating_point() or units.is_complex():
            raise EditError(f"units must be whole numbers in one dimension, got {units.dtype} {tuple(units.shape)}")
        numbers = units.tolist()
    elif isinstance(units, Iterable):
        numbers = [whole_number(unit, "a unit") for unit in units]
    else:
        raise EditError(f"units must be a sequence of unit numbers, got {units!r}")
    if not numbers:
        raise EditError("no units given; name at least one")
    return numbers


def _check_range(units: Sequence[int], size: int) -> None:
    for unit in units:
        if not 0 <= unit < size:
            raise EditError(f"unknown unit {unit}: the axis has {size} units, numbered from 0 to {size - 1}")
