"""When layers and branches come and go: the protocol's fixed schedule, and those that belong to methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from meristem.schedule import At, Every, OnConvergence, Schedule
from meristem.study.studies.grid.contender import TURNOVER, Setting, Timing

Pace: TypeAlias = Literal["periodic", "convergent", "at once"]
"""How a method's own schedule inserts: see `_own`."""

GAIN = 0.05
"""AutoGrow inserts when the training loss has fallen by less than this since the last check: about half of what it
falls by in a tenth of the training at the scale `cpu`, on average. (The authors' 0.05 are points of accuracy.)"""


@dataclass(frozen=True)
class Rounds:
    """A schedule that shortens or deepens, and the steps after which it may.

    Attributes:
        schedule: when, and how many.
        steps: all steps at which it can ask.
    """

    schedule: Schedule
    steps: Sequence[int]


def rounds(setting: Setting, timing: Timing, count: int, pace: Pace | None, prune: bool) -> tuple[Rounds, ...]:
    """When parts are born and die.

    Args:
        setting: of the contest.
        timing: whose schedule it is.
        count: how many parts there can be.
        pace: of newborns on their own schedule; None: nothing is born.
        prune: whether any die.
    """
    if timing == "own":
        return _own(setting.steps, count, pace, prune)
    return (_fixed(setting, count, pace is not None, prune),)


def _fixed(setting: Setting, count: int, grow: bool, prune: bool) -> Rounds:
    """The protocol's schedule: at each of its times, in equal portions, what the contest asks for. If parts both die
    and are born, an eighth of all (at least one) does the lesser of both, as far as they are there."""
    first, last = {"growing": (0, count), "shrinking": (count, 0), "constant": (count, count)}[setting.course]
    extra = max(1, round(TURNOVER * count)) if grow and prune else 0

    def planned(step: int) -> int:
        return round(setting.reached(first, last, sum(time <= step for time in setting.times)))

    def deaths(step: int) -> int:
        before = planned(step - 1)
        return min(before, max(0, before - planned(step)) + extra)

    def births(step: int) -> int:
        return planned(step) - planned(step - 1) + deaths(step)

    dying, born = deaths if prune else None, births if grow else None
    return Rounds(At(setting.times, shorten=dying, deepen=born), setting.times)


def _own(steps: int, count: int, pace: Pace | None, prune: bool) -> tuple[Rounds, ...]:
    """The schedules that belong to a method and to a criterion, side by side, each for its own edits.

    Parts die in one removal halfway, then the net is fine-tuned: all that the contest asks for, or where others are to
    take their places half of them. Newborns come from the beginning on, or from the removal on:

    - periodic: one every twentieth of the training, which is AutoGrow's fast driver (Wen et al., arXiv 1906.02909);
    - convergent: AutoGrow's other driver, see `OnConvergence`: one at each tenth of the training at which the loss has
      fallen by less than `GAIN`, until one does not help. So the net may end smaller than the contest allows;
    - at once: all in one round, when the net has learned without them for a quarter of the training, as in progressive
      stacking (Gong et al., 2019) and Net2Net (arXiv 1511.05641).
    """
    half, found = steps // 2, list[Rounds]()
    if prune:
        found.append(Rounds(At(half, shorten=count if pace is None else count // 2), (half,)))
    if pace is not None:
        found.append(_births(steps, count, pace, half if prune else 0))
    return tuple(found)


def _births(steps: int, count: int, pace: Pace, begin: int) -> Rounds:
    if pace == "at once":
        time = begin + max(1, steps // 4)
        return Rounds(At(time, deepen=count), (time,))
    every = max(1, steps // (20 if pace == "periodic" else 10))
    checks = range(begin + every, steps + 1, every)
    if pace == "periodic":
        return Rounds(Every(every, start=begin + every, deepen=1), checks)
    return Rounds(OnConvergence(every, GAIN, deepen=1).after(steps=begin + 1), checks)
