"""Tests that claims stand by which only ask for order: signs and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from meristem.study.claim import Arms, Outcome, Results, Test, Verdict, name_of, values
from meristem.study.statistics import binomial, pairs_to_correlate, seeds_for_share, spearman

_UNKNOWN = math.nan


@dataclass(frozen=True)
class MoreOften(Test):
    """The first arm beats the second in more than half of the seeds: a sign test; ties are left out.

    Attributes: as `Greater`.
    """

    metric: str
    first: Arms
    second: Arms

    def outcome(self, results: Results) -> Outcome:
        (a, out_a), (b, out_b) = (values(results, arm, self.metric) for arm in (self.first, self.second))
        signs = [a[seed] > b[seed] for seed in a if seed in b and a[seed] != b[seed]]
        n, share, p, low, high = len(signs), _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN
        if n:
            share = sum(signs) / n
            p, low, high = binomial(sum(signs), n)
        decided: Verdict = "reproduced" if share > 0.5 else "not reproduced"
        verdict = decided if n and p < 0.05 else "undecided"
        return Outcome(
            what=f"{self.metric}: share of seeds in which {name_of(self.first)} beats {name_of(self.second)}",
            expected="above",
            level=0.5,
            test=f"sign test, {n} pairs",
            estimate=share,
            low=low,
            high=high,
            effect=share,
            effect_name="share",
            p=p,
            verdict=verdict,
            values=n,
            left_out=out_a + out_b,
            needed=seeds_for_share(share) if n and verdict == "undecided" else None,
        )


@dataclass(frozen=True)
class Correlated(Test):
    """Two numbers rise together from arm to arm: Spearman's rank correlation of their means over seeds.

    Runs of one arm differ by chance alone, so each arm is one point, however many seeds it has. Reproduced: p < 5 %,
    with the sign that is expected. Not reproduced: p < 5 %, with the other sign, or the 95 % interval excludes a
    correlation of 0.3. Else undecided; `needed` are arms then.

    Attributes:
        x, y: of the runs.
        arms: at least four; they should not differ in what changes y for other reasons.
        expected: positive or negative.
    """

    x: str
    y: str
    arms: tuple[str, ...]
    expected: Literal["positive", "negative"] = "positive"

    def outcome(self, results: Results) -> Outcome:
        pairs: list[tuple[float, float]] = []
        left_out = 0
        for arm in self.arms:
            (x, out_x), (y, out_y) = values(results, arm, self.x), values(results, arm, self.y)
            both = [seed for seed in x if seed in y]
            if both:
                pairs.append((mean(x[seed] for seed in both), mean(y[seed] for seed in both)))
            left_out += max(out_x, out_y)
        return _ranked(f"{self.x} with {self.y}, over arms", "arms", pairs, self.expected, left_out)


@dataclass(frozen=True)
class Trend(Test):
    """A number rises (or falls) from arm to arm: Spearman's rank correlation with what the arms differ in.

    Verdicts as of `Correlated`.

    Attributes:
        metric: of the runs.
        over: for each arm where it stands.
        expected: positive: rising; negative: falling.
    """

    metric: str
    over: Mapping[str, float]
    expected: Literal["positive", "negative"] = "positive"

    def outcome(self, results: Results) -> Outcome:
        found = {arm: values(results, arm, self.metric) for arm in self.over}
        pairs = [(self.over[arm], value) for arm, (by_seed, _) in found.items() for value in by_seed.values()]
        left_out = sum(out for _, out in found.values())
        return _ranked(f"{self.metric} over {', '.join(self.over)}", "runs", pairs, self.expected, left_out)


def _ranked(
    what: str, points: str, pairs: list[tuple[float, float]], expected: Literal["positive", "negative"], left_out: int
) -> Outcome:
    n, sign = len(pairs), 1 if expected == "positive" else -1
    rho = p = low = high = _UNKNOWN
    verdict: Verdict = "undecided"
    needed: int | None = 5
    if n > 3 and all(len(set(side)) > 1 for side in zip(*pairs, strict=True)):
        found = spearman([x for x, _ in pairs], [y for _, y in pairs])
        rho, p, low, high = found.rho, found.p, found.low, found.high
        needed = None
        if p < 0.05:
            verdict = "reproduced" if rho * sign > 0 else "not reproduced"
        elif max(low * sign, high * sign) < 0.3:
            verdict = "not reproduced"
        else:
            needed = pairs_to_correlate(rho)
    return Outcome(
        what=what,
        expected=expected,
        test=f"Spearman's rank correlation, {n} {points}",
        estimate=rho,
        low=low,
        high=high,
        effect=rho,
        effect_name="ρ",
        p=p,
        verdict=verdict,
        values=n,
        left_out=left_out,
        needed=needed,
    )
