"""How the width of a net changes while it trains, and what decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field
from torch.optim import Optimizer

from meristem.allocate import Limits, Proportional
from meristem.axes import AxisMap
from meristem.grow import TINY
from meristem.integrate import StepCounts
from meristem.plasticity import Plasticity
from meristem.prune import Protect, Taylor
from meristem.recipes.early_growth import Course
from meristem.schedule import At, Below, OnGain, Schedule
from meristem.train.build import GROWTH
from meristem.train.experiment import Strict

LEAST = 2
"""Units of a layer at least: a dimension of size 1 is no axis."""


class Grow(Strict):
    """Growth in the first part of the training.

    Attributes:
        to: the most units of a layer.
        method: of `meristem.grow`, with its `options`.
        decides: `course`: sizes follow the square root of time up to `to`, as in `meristem.recipes.early_growth`; what
            a method does not give at one edit it is asked for at the next. `gain`: every layer grows by the newborns
            that promise more than the share `bar` of the most that any has promised; TINY predicts it, whatever the
            method is.
        by: the share of the training in which the net grows.
        edits: how often.
        bar: see there.
    """

    to: int = Field(default=128, ge=LEAST)
    method: str = "Mitosis"
    options: dict[str, Any] = Field(default={})
    decides: Literal["course", "gain"] = "course"
    by: float = Field(default=0.3, gt=0, le=1)
    edits: int = Field(default=12, ge=1)
    bar: float = Field(default=0.05, ge=0)

    def every(self, steps: int) -> int:
        """Steps from one edit to the next."""
        return max(1, round(self.by * steps / self.edits))

    def due(self, steps: int) -> list[int]:
        """After which steps of so many the net grows."""
        return [self.every(steps) * edit for edit in range(1, self.edits + 1)]


class Prune(Strict):
    """Pruning of what the loss would hardly miss: units whose gate has a gradient of at most `below` (Taylor).

    Attributes:
        below: in units of the loss.
        first, last: when, in shares of the training.
        edits: how often.
        age: newborns are spared for such a share of the training.
    """

    below: float = Field(gt=0)
    first: float = Field(default=0.1, ge=0, le=1)
    last: float = Field(default=0.8, ge=0, le=1)
    edits: int = Field(default=8, ge=1)
    age: float = Field(default=0.1, ge=0, le=1)

    def due(self, steps: int) -> list[int]:
        """After which steps of so many units leave."""
        gap = (self.last - self.first) / max(self.edits - 1, 1)
        return [max(1, round(steps * (self.first + gap * edit))) for edit in range(self.edits)]


def controller(
    axes: AxisMap, optimizer: Optimizer, grow: Grow | None, prune: Prune | None, steps: int, listen: int, seed: int
) -> Plasticity | None:
    """What changes the width over so many steps; None if nothing does. Raises `EditError` where a method is not
    defined for the net."""
    made: list[Plasticity] = []
    growth = _growth(axes, grow, steps, lambda: made[0].axes if made else axes) if grow else None
    pruning = At(prune.due(steps), prune=Below(prune.below)) if prune else None
    schedule = growth | pruning if growth and pruning else growth or pruning
    if schedule is None:
        return None
    made.append(
        Plasticity(
            axes.model,
            optimizer,
            axes,
            schedule=schedule,
            grow=GROWTH[grow.method](**grow.options) if grow else None,
            prune=Protect(Taylor(), age=round(prune.age * steps)) if prune else None,
            allocate=Proportional(limits=Limits(minimum=LEAST, maximum=grow.to if grow else None)),
            integrate=StepCounts(),
            listen=listen,
            seed=seed,
        )
    )
    return made[0]


def _growth(axes: AxisMap, grow: Grow, steps: int, today: Callable[[], AxisMap]) -> Schedule:
    every, due = grow.every(steps), grow.due(steps)
    if grow.decides == "gain":
        return OnGain(TINY(), relative=grow.bar, interval=every).until(steps=due[-1])
    starts = {axis.name: axis.size for axis in axes.editable}
    course = Course({name: (size, grow.to) for name, size in starts.items()}, every, due[-1], power=0.5)

    def missing(step: int) -> Mapping[str, int]:
        found = {
            name: size + sum(course(at).get(name, 0) for at in due if at <= step) - today().by_name[name].size
            for name, size in starts.items()
        }
        return {name: count for name, count in found.items() if count > 0}

    return At(due, grow=missing)
