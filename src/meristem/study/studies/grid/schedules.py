"""When units are born and die: the protocol's fixed schedule, and those that belong to methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from meristem.axes import AxisMap
from meristem.schedule import At, Schedule, Together
from meristem.study.studies.grid.contender import LISTEN, TURNOVER, Setting
from meristem.study.studies.grid.insertion import Growing

Pruning: TypeAlias = Literal["L1", "polarization"]

EARLY, LATE = 10_000 / 78_200, 37_500 / 78_200
"""When GradMax's code begins and ends to grow VGG-11, as a share of its training (200 epochs of 391 steps)."""


def fixed(setting: Setting, grow: bool, prune: bool, today: Callable[[], AxisMap]) -> Schedule:
    """The protocol's schedule: deaths at its times, births with them, or where both happen `LISTEN` steps later (before
    the next time).

    Sizes go from first to last in equal steps. If units both are born and die, an eighth of the final ones (at least
    one) does the lesser of both.

    Args:
        setting: of the contest.
        grow, prune: what happens.
        today: gives today's map.
    """
    both = grow and prune
    extra = _extra(setting, both)
    gaps = [later - earlier for earlier, later in pairwise(setting.times)]
    delay = max(1, min([LISTEN, *(gap - 1 for gap in gaps)])) if both else 0

    def goal(name: str, step: int) -> int:
        first, last = setting.sizes[name]
        return round(setting.reached(first, last, sum(time <= step for time in setting.times)))

    def deaths(step: int) -> dict[str, int]:
        axes = today()
        surplus = {name: axes.by_name[name].size - goal(name, step) for name in setting.sizes}
        return _some({name: max(0, surplus[name]) + extra[name] for name in surplus})

    def births(step: int) -> dict[str, int]:
        axes = today()
        return _some({name: goal(name, step) - axes.by_name[name].size for name in setting.sizes})

    parts: list[Schedule] = []
    if prune:
        parts.append(At(setting.times, prune=deaths))
    if grow:
        parts.append(At([time + delay for time in setting.times], grow=births))
    return Together(tuple(parts)) if both else parts[0]


def own(setting: Setting, grow: Growing | None, prune: Pruning | None, today: Callable[[], AxisMap]) -> Schedule:
    """The schedules that belong to a method and to a criterion, side by side, each for its own edits.

    Births come when the method's authors have them: equal steps at the times of GradMax's code, two rounds of equal
    factors for Firefly. Deaths come in one removal halfway, then fine-tuning. Where both happen, as many units are born
    and die beyond what the contest asks for as under the fixed schedule, and newborns that would come with a removal,
    or less than `LISTEN` steps after it, come that much after it. A removal leaves what is then planned, however many
    newborns a method gave.

    Args:
        setting: of the contest.
        grow, prune: what happens; at least one is not None, and Mitosis has a recipe of its own.
        today: gives today's map.
    """
    extra = _extra(setting, grow is not None and prune is not None)
    dead = {n: max(0, first - last) + len(setting.times) * extra[n] for n, (first, last) in setting.sizes.items()}
    half = setting.steps // 2
    births = _births(setting, grow, dead, half if prune else 0)
    parts: list[Schedule] = [] if grow is None else [At(births.times, grow=births)]

    def surplus(step: int) -> dict[str, int]:
        axes, planned = today(), births.at(step)
        return _some({n: axes.by_name[n].size - max(1, planned[n] - dead[n]) for n in dead})

    if prune == "polarization":
        parts.append(At([half], prune=lambda step: sum(surplus(step).values())))
    elif prune is not None:
        parts.append(At([half], prune=surplus))
    return parts[0] if len(parts) == 1 else Together(tuple(parts))


@dataclass(frozen=True)
class _Births:
    """Newborns in stages.

    Attributes:
        times: steps after which they come.
        planned: by axis name, the sizes before the first and after every stage if nothing died.
    """

    times: tuple[int, ...]
    planned: Mapping[str, tuple[int, ...]]

    def __call__(self, step: int) -> dict[str, int]:
        before, now = self.at(step - 1), self.at(step)
        return _some({name: now[name] - before[name] for name in now})

    def at(self, step: int) -> dict[str, int]:
        """The sizes that are planned after a step if nothing died."""
        done = sum(time <= step for time in self.times)
        return {name: sizes[done] for name, sizes in self.planned.items()}


def _births(setting: Setting, grow: Growing | None, dead: Mapping[str, int], removal: int) -> _Births:
    """When a method's newborns come, and how many, if so many units die after the step `removal` (0: none does)."""
    ends = {n: (first, last, dead[n]) for n, (first, last) in setting.sizes.items()}
    if grow is None:
        return _Births((), {n: (first,) for n, (first, _, _) in ends.items()})
    times = birth_times(setting.steps, grow, removal)
    if grow == "Firefly":
        planned = {n: (a, _middle(a, b, d), b + d) for n, (a, b, d) in ends.items()}
    else:
        stages = [k / len(times) for k in range(len(times) + 1)]
        planned = {n: tuple(round(a + (b + d - a) * done) for done in stages) for n, (a, b, d) in ends.items()}
    return _Births(times, planned)


def birth_times(steps: int, grow: str, removal: int = 0) -> tuple[int, ...]:
    """The steps after which a method's newborns come: two rounds for Firefly, else the times of GradMax's code.

    Args:
        steps: of the training.
        grow: the method.
        removal: a step after which units die, 0: there is none; newborns that would come then, or less than `LISTEN`
            steps later, come `LISTEN` steps after it.
    """
    count = max(2, min(12, steps // 50))
    shares = (1 / 3, 2 / 3) if grow == "Firefly" else [EARLY + (LATE - EARLY) * k / (count - 1) for k in range(count)]
    late = range(removal, removal + LISTEN) if removal else ()
    return tuple(removal + LISTEN if time in late else time for time in (round(share * steps) for share in shares))


def _middle(first: int, last: int, dead: int) -> int:
    """The size after the first of two rounds of growth by the same factor, between which so many units die: the factor
    f solves `f * (f * first - dead) = last`."""
    return round((dead + math.sqrt(dead**2 + 4 * first * last)) / 2)


def _extra(setting: Setting, both: bool) -> dict[str, int]:
    """What is born and dies at every time of the fixed schedule beyond what the contest asks for."""
    return {name: max(1, round(TURNOVER * max(sizes))) if both else 0 for name, sizes in setting.sizes.items()}


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}
