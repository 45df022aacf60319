"""Which sizes an axis may have after an edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from meristem.axes.expression import Expression, Leaf, Product
from meristem.axes.map import Axis, AxisMap
from meristem.axes.pattern import matches
from meristem.errors import ConfigError, UnknownAxisError
from meristem.schedule.demand import Action


@dataclass(frozen=True)
class Limits:
    """The sizes that an axis may be given.

    An axis that is outside already is left there; an edit never moves it further out.

    Attributes:
        minimum: smallest size that pruning leaves (default 1).
        maximum: largest size that growth gives, or None.
        multiple: every new size is a multiple of this (default 1), e.g. 8 for tensor cores.
    """

    minimum: int = 1
    maximum: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.minimum < 1 or self.multiple < 1 or (self.maximum is not None and self.maximum < self.minimum):
            raise ConfigError(f"limits must satisfy 1 <= minimum <= maximum and multiple >= 1, got {self}")

    def counts(self, action: Action, size: int, most: int) -> range:
        """The numbers of units, ascending, up to `most` (rounded up to a multiple for growth), that an axis of this
        size may gain or lose."""
        if action == "grow":
            first = self.multiple - size % self.multiple
            last = -(-(size + most) // self.multiple) * self.multiple - size
            return range(first, last + 1 if self.maximum is None else min(last, self.maximum - size) + 1, self.multiple)
        first = size % self.multiple or self.multiple
        return range(first, min(most, size - self.minimum) + 1, self.multiple)


LimitsByName: TypeAlias = "Limits | Mapping[str, Limits]"
"""Limits for all axes, or by name or glob pattern: the first that matches an axis holds, no match means none."""


def require_known(limits: LimitsByName, axes: AxisMap) -> None:
    """Raise `UnknownAxisError` if a pattern matches no axis of a model: it limits nothing."""
    unknown = [] if isinstance(limits, Limits) else [p for p in limits if not any(matches(a.name, p) for a in axes)]
    if unknown:
        names = ", ".join(axis.name for axis in axes.editable[:5])
        raise UnknownAxisError(f"limits are given for {unknown[0]!r}, which matches no axis; there are {names}, ...")


def limits_of(limits: LimitsByName, axis: Axis) -> Limits:
    """The limits that hold for one axis; never below the least number of units that the model's code needs."""
    if isinstance(limits, Limits):
        found = limits
    else:
        found = next((limit for pattern, limit in limits.items() if matches(axis.name, pattern)), Limits())
    if axis.minimum <= found.minimum:
        return found
    maximum = None if found.maximum is None else max(found.maximum, axis.minimum)
    return replace(found, minimum=axis.minimum, maximum=maximum)


def fast_multiple(axes: AxisMap, axis: Axis) -> int:
    """The multiple of which sizes are to be for fast kernels: 8 for an axis of at least 64 units; 1 for smaller ones,
    and for one that only counts others (heads count their units), since what it multiplies is what lies in memory."""
    layouts = [place.layout.dims[place.dim] for place in axes.places[axis.index]]
    return 8 if axis.size >= 64 and any(_innermost(dim, axis.index) for dim in layouts) else 1


def _innermost(length: Expression, axis: int) -> bool:
    """Whether the units of an axis lie next to each other somewhere along a length."""
    if isinstance(length, Leaf):
        return length.axis == axis
    if isinstance(length, Product):
        return bool(length.factors) and _innermost(length.factors[-1], axis)
    return any(_innermost(part, axis) for part in length.parts)
