"""Claims of a paper: sentences with the tests that they stand or fall by."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from meristem.errors import ConfigError
from meristem.study.statistics import holm
from meristem.train.record import Run

Verdict: TypeAlias = Literal["reproduced", "smaller than matters", "not reproduced", "undecided"]
"""Smaller than matters: significant as it is claimed, but a difference as large as the margin is excluded."""

Results: TypeAlias = Mapping[str, Sequence[Run]]
"""Finished runs by arm."""

Arms: TypeAlias = "str | tuple[str, ...]"
"""An arm, or several whose values are averaged for each seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test found.

    Attributes:
        what: which number it is about.
        expected: what the paper says of it: `above` or `below` the level, `within` the margin of it, or the sign.
        level, margin: see there; a margin is the smallest difference that matters.
        test: which test, and on how many values.
        estimate, low, high: with its 95 % confidence interval; NaN where there are too few values.
        effect: the size of the effect in units that do not depend on the metric, and its name.
        p: two-sided; of two one-sided tests where equality is claimed.
        verdict: see the test.
        values: how many seeds (or runs) went in.
        left_out: runs without a value.
        needed: if undecided, seeds (or runs) that would decide it with a chance of 80 %. None: more than 1000.
        p_holm: p, adjusted for all tests of the study.
        metric: whose number it is, for its unit; empty if it has none.
    """

    what: str
    expected: Literal["above", "below", "within", "positive", "negative"]
    test: str
    estimate: float
    low: float
    high: float
    effect: float
    effect_name: str
    p: float
    verdict: Verdict
    values: int
    level: float = 0.0
    margin: float = 0.0
    left_out: int = 0
    needed: int | None = None
    p_holm: float = math.nan
    metric: str = ""


class Test(ABC):
    """Something that results either show or not."""

    __test__ = False  # not one of pytest's

    @abstractmethod
    def outcome(self, results: Results) -> Outcome:
        """Carries it out.

        Raises:
            ConfigError: there is no such arm, or its runs have no such number.
        """


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that a paper says, and the tests that it stands by: all must.

    Attributes:
        sentence: in plain words.
        tests: at least one.
        source: where the paper says so.

    Raises:
        ConfigError: it has no tests.
    """

    sentence: str
    tests: Sequence[Test]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.tests:
            raise ConfigError(f"the claim {self.sentence!r} has no tests; nothing could refute it")


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim with what its tests found.

    Attributes:
        verdict: not reproduced if one test says so, else undecided if one is, else smaller than matters if one is, else
            reproduced.
    """

    claim: Claim
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> Verdict:
        """Of the whole claim."""
        found = {outcome.verdict for outcome in self.outcomes}
        worst_first: tuple[Verdict, ...] = ("not reproduced", "undecided", "smaller than matters", "reproduced")
        return next(verdict for verdict in worst_first if verdict in found)


def judge(claims: Sequence[Claim], results: Results) -> list[Finding]:
    """All claims, with p-values adjusted for the number of all tests together (Holm)."""
    findings = [Finding(claim, tuple(test.outcome(results) for test in claim.tests)) for claim in claims]
    known = [o.p for finding in findings for o in finding.outcomes if not math.isnan(o.p)]
    adjusted = iter(holm(known))
    return [
        Finding(
            finding.claim,
            tuple(o if math.isnan(o.p) else replace(o, p_holm=next(adjusted)) for o in finding.outcomes),
        )
        for finding in findings
    ]


def values(results: Results, arms: Arms, metric: str) -> tuple[dict[int, float], int]:
    """A number of every seed that all these arms have, averaged over them, and how many runs have none (NaN).

    Raises:
        ConfigError: an arm is not there, or its runs have no such number.
    """
    found: list[dict[int, float]] = []
    for arm in (arms,) if isinstance(arms, str) else arms:
        if arm not in results:
            raise ConfigError(f"there is no arm {arm!r}; expected one of {', '.join(map(repr, results))}")
        found.append({run.seed: run.value(metric) for run in results[arm]})
    common = [seed for seed in found[0] if all(seed in each for each in found)]
    averages = {seed: math.fsum(each[seed] for each in found) / len(found) for seed in common}
    there = {seed: value for seed, value in averages.items() if math.isfinite(value)}
    return there, len(averages) - len(there)


def name_of(arms: Arms) -> str:
    """As people read it."""
    return arms if isinstance(arms, str) else f"mean of {', '.join(arms)}"
