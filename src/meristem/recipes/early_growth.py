"""Early growth: begin small, reach the final size early, by many small divisions of the busiest units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from meristem.allocate import Selection, choose
from meristem.axes import Axis, AxisMap, trace
from meristem.errors import ConfigError, UnknownAxisError
from meristem.grow import Method, Mitosis
from meristem.plasticity import Plasticity
from meristem.schedule import Every


@dataclass(frozen=True)
class Course:
    """How many units every axis gains at a step, such that its size follows a root from the first to the last edit.

    `size(t) = start + (end - start) * (t / last) ** power`, rounded; the differences are what is asked for.

    Attributes:
        sizes: by axis name the first and the final size.
        every: optimizer steps between edits.
        last: the step of the last edit, a multiple of `every`.
        power: 1 for equal steps; the smaller, the earlier.
    """

    sizes: Mapping[str, tuple[int, int]]
    every: int
    last: int
    power: float

    def __call__(self, step: int) -> dict[str, int]:
        """Newborns by axis name of the edit at a step."""
        found = {name: self._size(name, step) - self._size(name, step - self.every) for name in self.sizes}
        return {name: count for name, count in found.items() if count}

    def _size(self, name: str, step: int) -> int:
        start, end = self.sizes[name]
        return round(start + (end - start) * min(1.0, max(0, step) / self.last) ** self.power)


def early_growth(
    model: nn.Module,
    optimizer: Any | Sequence[Any],
    example: Any,
    *,
    factor: float | Mapping[str, float],
    steps: int,
    share: float = 0.3,
    every: int | None = None,
    power: float = 0.5,
    grow: Method | None = None,
    axes: Selection = None,
    **settings: Any,
) -> Plasticity:
    """meristem's own recipe for growth whose newborns are not starved.

        plasticity = meristem.recipes.early_growth(model, optimizer, x, factor=4, steps=len(loader) * epochs)
        ...                                     # in the loop, as ever: plasticity.step()

    The busiest units divide (`Mitosis`): the function is preserved, and newborns get as much gradient as incumbents
    from birth on. They divide often, a few at a time, so that each division sees gradients of its own time; and early:
    sizes follow the square root of time over the first 30 % of training, so that most of it is spent with all units,
    but none of it with units that have nothing to begin from.

    It is made of `Every(every, grow=Course(...))` and `Mitosis`, and may be made of others. What was tried on the way
    to it, and how it compares, is in the documentation's page on newborns.

    Args:
        model, optimizer, example: as for `Plasticity`.
        factor: the final size of every axis over its size today, at least 1; or by axis name (the others keep theirs;
            each name must be one of `axes`).
        steps: optimizer steps of the whole training.
        share: of the steps in which the axes grow, above 0 and at most 1. Default 0.3.
        every: optimizer steps between edits. Default: 1 % of all steps.
        power: of the course of sizes; 1 for a straight line. Default 0.5.
        grow: another growth method. Default: `Mitosis()`.
        axes: which axes; default: all editable ones without couplings for which the method is defined.
        settings: everything else that `Plasticity` takes.

    Raises:
        ConfigError: a number is out of its range.
        EditError, UnknownAxisError, FrozenAxisError, TraceError: as `Plasticity`.
    """
    every = max(1, round(steps / 100)) if every is None else every
    last = int(share * steps) // every * every if every > 0 else 0
    if not (0 < share <= 1 and every >= 1 and power > 0 and last > 0):
        raise ConfigError(
            "early_growth: expected 0 < share <= 1, every >= 1, power > 0 and at least one edit in share * steps; got "
            f"share={share!r}, every={every!r}, power={power!r}, steps={steps!r}"
        )
    found = example if isinstance(example, AxisMap) else trace(model, example)
    method = Mitosis() if grow is None else grow

    def free(axis: Axis) -> bool:
        return not axis.couplings and method.refused(found, axis) is None

    chosen = choose(found, free if axes is None else axes)
    if isinstance(factor, Mapping) and (unknown := factor.keys() - {axis.name for axis in chosen}):
        raise UnknownAxisError(
            f"early_growth: factor= names {', '.join(sorted(unknown))}, which cannot grow here; those that can are "
            f"{', '.join(axis.name for axis in chosen)}"
        )
    course = Course({axis.name: (axis.size, _final(axis, factor)) for axis in chosen}, every, last, power)
    return Plasticity(
        model,
        optimizer,
        found,
        schedule=Every(every, end=last, grow=course),
        grow=method,
        axes=[axis.name for axis in chosen],
        **settings,
    )


def _final(axis: Axis, factor: float | Mapping[str, float]) -> int:
    times = factor.get(axis.name, 1.0) if isinstance(factor, Mapping) else factor
    if not 1 <= times < float("inf"):
        raise ConfigError(f"early_growth: a factor is at least 1, got {times!r} for {axis.name}")
    return round(axis.size * times)
