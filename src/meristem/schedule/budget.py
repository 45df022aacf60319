"""Budget: bounds on a model's size, at which growth and pruning stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import TypeAlias

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError

_TODAY = {
    "parameters": "axes.parameter_count()", "flops": "axes.flops()", "bytes": "axes.byte_count()",
    "units": "sum(axis.size for axis in axes.editable)",
}  # fmt: skip
"""How a model is measured today."""


@dataclass(frozen=True)
class Budget:
    """Bounds on the model's size. Growth stops before it exceeds one; pruning stops as soon as it meets all.

    Attributes:
        parameters: number of parameters, tied ones once, or None.
        flops: floating-point operations of one forward pass on the example input (as `AxisMap.flops`), or None.
        units: number of units of all axes that may be edited, or None.
        bytes: memory of parameters and buffers, tied ones once, or None.

    Raises:
        ConfigError: a bound is below 1: a share of today's, perhaps, which has to be multiplied by what there is today.
    """

    parameters: float | None = None
    flops: float | None = None
    units: float | None = None
    bytes: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if bound is not None and not bound >= 1:
                raise ConfigError(
                    f"a budget of {field.name} counts them all, so it must be a number of at least 1, got {bound!r}; "
                    f"for half of today's give 0.5 * {_TODAY[field.name]}, with axes = meristem.trace(model, example)"
                )

    def __bool__(self) -> bool:
        """Whether anything is bounded."""
        return self != Budget()

    def __and__(self, other: Budget) -> Budget:
        """Both budgets at once."""
        return Budget(
            _lower(self.parameters, other.parameters),
            _lower(self.flops, other.flops),
            _lower(self.units, other.units),
            _lower(self.bytes, other.bytes),
        )

    def met(self, axes: AxisMap, sizes: Sequence[int], chosen: Iterable[Axis]) -> bool:
        """Whether the model is within every bound when its axes have these sizes.

        Args:
            axes: the map.
            sizes: a size for every axis of the map, by its number.
            chosen: the axes that may be edited, whose units count.
        """
        return (
            (self.parameters is None or axes.parameter_count(sizes) <= self.parameters)
            and (self.flops is None or axes.flops(sizes) <= self.flops)
            and (self.units is None or sum(sizes[axis.index] for axis in chosen) <= self.units)
            and (self.bytes is None or axes.byte_count(sizes) <= self.bytes)
        )


Bound: TypeAlias = "float | Callable[[int], float] | None"
"""A number, a callable that gives it for an optimizer step, or None for no bound."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of a budget, some of which may move with the optimizer step.

    Attributes:
        parameters, flops, units, bytes: as in `Budget`.
    """

    parameters: Bound = None
    flops: Bound = None
    units: Bound = None
    bytes: Bound = None

    @property
    def budget(self) -> Budget | Callable[[int], Budget]:
        """The budget, or a callable that gives it for a step if a bound moves. Raises `ConfigError` as `Budget`."""
        return self.at if any(callable(getattr(self, field.name)) for field in fields(self)) else self.at(0)

    def at(self, step: int) -> Budget:
        """The budget of a step. Raises `ConfigError` if a bound is below 1 then."""
        return Budget(*(_at(bound, step) for bound in (self.parameters, self.flops, self.units, self.bytes)))


def _at(bound: Bound, step: int) -> float | None:
    return bound(step) if callable(bound) else bound


def _lower(a: float | None, b: float | None) -> float | None:
    bound = min(inf if a is None else a, inf if b is None else b)
    return None if bound == inf else bound
