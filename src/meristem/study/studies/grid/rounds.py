"""When layers and branches come and go: the protocol's fixed schedule, and those that belong to methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from meristem.schedule import At, Every, OnConvergence, Schedule
from meristem.study.studies.grid.contender import TURNOVER, Setting, Timing
from meristem.study.studies.grid.schedules import birth_times
from meristem.study.studies.grid.sprout import Sprouting

Pace: TypeAlias = Literal["periodic", "convergent", "at once"] | Sprouting
"""How a method's own schedule inserts: see `_own` and `_side_by_side`."""

GAIN = 0.05
"""AutoGrow inserts when the training loss has fallen by less than this since the last check: about half of what it
falls by in a tenth of the training at the scale `cpu`, on average. (The authors' 0.05 are points of accuracy.)"""


@dataclass(frozen=True)
class Rounds:
    """A schedule that shortens or deepens, and the steps after which it may.

    Attributes:
        schedule: when, and how many.
        steps: all steps at which it can ask.
        room: where there are so many parts, nothing is inserted.
    """

    schedule: Schedule
    steps: Sequence[int]
    room: int


def rounds(setting: Setting, timing: Timing, count: int, pace: Pace | None, prune: bool) -> tuple[Rounds, ...]:
    """When parts are born and die.

    Args:
        setting: of the contest.
        timing: whose schedule it is.
        count: how many parts there can be.
        pace: of newborns on their own schedule; None: nothing is born.
        prune: whether any die.
    """
    fixed = _Fixed(setting, count, pace is not None and prune)
    if timing == "own" and pace and (pace in get_args(Sprouting) or (pace == "at once" and fixed.joined)):
        return _side_by_side(fixed, pace, prune)
    if timing == "own":
        return _own(setting.steps, count, pace, prune)
    dying, born = fixed.deaths if prune else None, fixed.births if pace is not None else None
    return (Rounds(At(setting.times, shorten=dying, deepen=born), setting.times, count),)


@dataclass(frozen=True)
class _Fixed:
    """The protocol's schedule: at each of its times, in equal portions, what the contest asks for. If parts both die
    and are born, an eighth of all (at least one) does the lesser of both, as far as they are there.

    Attributes:
        setting: of the contest.
        count: how many parts there can be.
        both: whether parts both die and are born.
    """

    setting: Setting
    count: int
    both: bool

    @property
    def ends(self) -> tuple[int, int]:
        """How many there are at first and at last."""
        count = self.count
        return {"growing": (0, count), "shrinking": (count, 0), "constant": (count, count)}[self.setting.course]

    @property
    def joined(self) -> bool:
        """Whether parts both die and are born though the contest asks for only one."""
        return self.both and self.setting.course != "constant"

    def planned(self, step: int) -> int:
        """How many there are after a step."""
        return round(self.setting.reached(*self.ends, sum(time <= step for time in self.setting.times)))

    def deaths(self, step: int) -> int:
        """How many die after it."""
        before, extra = self.planned(step - 1), max(1, round(TURNOVER * self.count)) if self.both else 0
        return min(before, max(0, before - self.planned(step)) + extra)

    def births(self, step: int) -> int:
        """How many are born then."""
        return self.planned(step) - self.planned(step - 1) + self.deaths(step)


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
        found.append(Rounds(At(half, shorten=count if pace is None else count // 2), (half,), count))
    if pace is not None:
        found.append(_births(steps, count, pace, half if prune else 0))
    return tuple(found)


def _births(steps: int, count: int, pace: Pace, begin: int) -> Rounds:
    if pace == "at once":
        time = begin + max(1, steps // 4)
        return Rounds(At(time, deepen=count), (time,), count)
    every = max(1, steps // (20 if pace == "periodic" else 10))
    checks = range(begin + every, steps + 1, every)
    if pace == "periodic":
        return Rounds(Every(every, start=begin + every, deepen=1), checks, count)
    return Rounds(OnConvergence(every, GAIN, deepen=1).after(steps=begin + 1), checks, count)


def _side_by_side(fixed: _Fixed, pace: str, prune: bool) -> tuple[Rounds, ...]:
    """A method's births at its own times, and one removal halfway, with as many births and deaths in all as the fixed
    schedule has; so a net that has grown by then is for a while larger than at either end.

    Births come in equal portions: at the times of `birth_times`; at once after a quarter of the training. Before the
    removal at least so many come that as many are there as die then: a contest that ends without parts has no newborns
    after it.
    """
    setting, half = fixed.setting, fixed.setting.steps // 2
    times = (max(1, setting.steps // 4),) if pace == "at once" else birth_times(setting.steps, pace, half * prune)
    born, died = (sum(map(asked, setting.times)) for asked in (fixed.births, fixed.deaths))
    first, early = fixed.ends[0], sum(time < half or not prune for time in times)
    soon = max(round(born * early / len(times)), died - first)
    stages = [*_portions(soon, early), *_portions(born - soon, len(times) - early)]
    births = Rounds(At(times, deepen=dict(zip(times, stages, strict=True)).__getitem__), times, first + born)
    return (births, Rounds(At(half, shorten=died), (half,), first + born)) if prune else (births,)


def _portions(total: int, rounds: int) -> list[int]:
    """As equal as they can be."""
    return [round(total * (k + 1) / rounds) - round(total * k / rounds) for k in range(rounds)]
