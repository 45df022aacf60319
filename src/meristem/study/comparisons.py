"""The tests that claims stand by. An interval decides; where it leaves both open, a power computation tells the cost.

All have two thresholds of a kind: what is expected must be significant at 5 % (two-sided), and a claim counts as not
reproduced only where what it says is excluded, not where it merely was not found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from meristem.study.claim import Arms, Outcome, Results, Test, Verdict, name_of, values
from meristem.study.statistics import (
    Difference,
    seeds_to_detect,
    seeds_to_equate,
)

_UNKNOWN = math.nan


@dataclass(frozen=True)
class Greater(Test):
    """The first arm's mean is greater than the second's: a paired t-test over seeds, or Welch's.

    Reproduced: the 95 % interval of the difference lies above 0 and does not exclude `margin`. Smaller than matters: it
    lies above 0, but below `margin`. Not reproduced: none of it is above 0, or 0 is in it and all of it lies below
    `margin`, so that a difference that matters is excluded. Else undecided: `needed` seeds find the difference that was
    seen, or `margin` if that is larger.

    Attributes:
        metric: of the runs.
        first, second: arms; of several the values are averaged for each seed.
        margin: the smallest difference that would matter, in the unit of the metric.
        paired: by seed; False where a seed has nothing to do with the same seed of another arm.
        against: the second arm's metric, if it is another.
    """

    metric: str
    first: Arms
    second: Arms
    margin: float = 0.0
    paired: bool = True
    against: str = ""

    def outcome(self, results: Results) -> Outcome:
        found = _difference(results, self.metric, self.first, self.second, self.paired, self.against)
        verdict, needed = _above(found.difference, self.margin)
        return found.outcome("above", verdict, needed, self.margin)


@dataclass(frozen=True)
class Equivalent(Test):
    """Both arms' means are the same within a margin: two one-sided t-tests.

    Reproduced: both reject at 5 % a difference of `margin` or more. Not reproduced: they do not, and the 95 % interval
    of the difference excludes 0. Else undecided.

    Attributes: as `Greater`; the margin is needed.
    """

    metric: str
    first: Arms
    second: Arms
    margin: float
    paired: bool = True
    against: str = ""

    def outcome(self, results: Results) -> Outcome:
        found = _difference(results, self.metric, self.first, self.second, self.paired, self.against)
        difference, needed, p = found.difference, None, _UNKNOWN
        verdict: Verdict = "undecided"
        if difference is not None:
            low, high = difference.bounds()
            p = difference.p_equivalent(self.margin)
            if p < 0.05:
                verdict = "reproduced"
            elif low > 0 or high < 0:
                verdict = "not reproduced"
            else:
                needed = seeds_to_equate(self.margin / difference.deviation, difference.pairs)
        return found.outcome("within", verdict, needed, self.margin, p, "two one-sided ")


@dataclass(frozen=True)
class Above(Test):
    """An arm's mean is above a number: a t-test of one sample. Verdicts as of `Greater`.

    Attributes:
        metric: of the runs.
        arm: or several, whose values are averaged for each seed.
        level: the number.
        margin: the smallest distance that would matter.
    """

    metric: str
    arm: Arms
    level: float
    margin: float = 0.0

    def outcome(self, results: Results) -> Outcome:
        found = _level(results, self.metric, self.arm, self.level, 1)
        verdict, needed = _above(found.difference, self.margin)
        return found.outcome("above", verdict, needed, self.margin)


@dataclass(frozen=True)
class Below(Test):
    """An arm's mean is below a number: a t-test of one sample. Attributes as of `Above`."""

    metric: str
    arm: Arms
    level: float
    margin: float = 0.0

    def outcome(self, results: Results) -> Outcome:
        found = _level(results, self.metric, self.arm, self.level, -1)
        verdict, needed = _above(found.difference, self.margin)
        return found.outcome("below", verdict, needed, self.margin)


@dataclass(frozen=True)
class _Found:
    """A difference, or None for want of values, with what all tests tell of it.

    `sign` is -1 where a difference was turned around for a test, `level` what the mean was compared with."""

    difference: Difference | None
    what: str
    test: str
    metric: str
    values: int
    left_out: int
    sign: int = 1
    level: float = 0.0

    def outcome(
        self,
        expected: Literal["above", "below", "within"],
        verdict: Verdict,
        needed: int | None,
        margin: float,
        p: float | None = None,
        prefix: str = "",
    ) -> Outcome:
        d = self.difference
        ends = sorted(self.level + self.sign * end for end in d.bounds()) if d else [_UNKNOWN, _UNKNOWN]
        return Outcome(
            what=self.what,
            expected=expected,
            test=f"{prefix}{self.test}",
            estimate=self.level + self.sign * d.mean if d else _UNKNOWN,
            low=ends[0],
            high=ends[1],
            effect=self.sign * d.cohen if d else _UNKNOWN,
            effect_name="d_z" if d and d.pairs else "d",
            p=p if p is not None else d.p() if d else _UNKNOWN,
            verdict=verdict,
            values=self.values,
            level=self.level,
            margin=margin,
            left_out=self.left_out,
            needed=needed if d else 2,
            metric=self.metric,
        )


def _difference(results: Results, metric: str, first: Arms, second: Arms, paired: bool, against: str) -> _Found:
    (a, out_a), (b, out_b) = values(results, first, metric), values(results, second, against or metric)
    common = [seed for seed in a if seed in b]
    right = name_of(second) if not against else f"{against} of {name_of(second)}"
    what = f"{metric}: {name_of(first)} − {right}"
    if paired:
        found = Difference.paired([a[seed] - b[seed] for seed in common]) if len(common) > 1 else None
        return _Found(found, what, f"paired t-test, {len(common)} seeds", metric, len(common), out_a + out_b)
    enough = min(len(a), len(b)) > 1
    found = Difference.welch(list(a.values()), list(b.values())) if enough else None
    test = f"Welch's t-test, {len(a)} and {len(b)} seeds"
    return _Found(found, what, test, metric, min(len(a), len(b)), out_a + out_b)


def _level(results: Results, metric: str, arm: Arms, level: float, sign: int) -> _Found:
    found, left_out = values(results, arm, metric)
    differences = [sign * (value - level) for value in found.values()]
    difference = Difference.paired(differences) if len(found) > 1 else None
    test = f"t-test, {len(found)} seeds"
    return _Found(difference, f"{metric} of {name_of(arm)}", test, metric, len(found), left_out, sign, level)


def _above(difference: Difference | None, margin: float) -> tuple[Verdict, int | None]:
    if difference is None:
        return "undecided", None
    low, high = difference.bounds()
    if low > 0:
        return ("smaller than matters" if high < margin else "reproduced"), None
    if high < margin or high <= 0:
        return "not reproduced", None
    wanted = max(margin, difference.mean) if margin else difference.mean
    return "undecided", seeds_to_detect(
        wanted / difference.deviation, difference.pairs
    ) if difference.deviation else None
