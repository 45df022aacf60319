"""Intervals, effect sizes and the numbers of seeds that tests need: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats

MOST = 1000
"""Numbers of seeds above this one are not sought."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the half width of its 95 % confidence interval (NaN for a single value)."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % confidence interval by Student's t distribution: mean +- t(0.975, n - 1) * s / sqrt(n).

    Of what is not finite, the loss of a run that has diverged say, the mean may be infinite or NaN; its width is NaN.
    """
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Interval(sum(values) / n, math.nan)
    if n < 2:
        return Interval(fmean(values), math.nan)
    return Interval(fmean(values), float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n))


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two means, as t-tests see it.

    Attributes:
        mean: first minus second.
        error: its standard error.
        freedom: degrees of freedom.
        deviation: in what Cohen's d is counted: the standard deviation of the differences (paired), or the root of the
            mean of both variances.
        pairs: whether the values are paired.
    """

    mean: float
    error: float
    freedom: float
    deviation: float
    pairs: bool

    @classmethod
    def paired(cls, differences: Sequence[float]) -> Difference:
        """Of pairs, or of one sample against a number; at least two."""
        n, deviation = len(differences), stdev(differences)
        return cls(fmean(differences), deviation / math.sqrt(n), n - 1, deviation, True)

    @classmethod
    def welch(cls, first: Sequence[float], second: Sequence[float]) -> Difference:
        """Of independent samples with different variances (Welch 1947); at least two values each."""
        parts = [stdev(x) ** 2 / len(x) for x in (first, second)]
        total = sum(parts)
        weights = sum(part**2 / (len(x) - 1) for part, x in zip(parts, (first, second), strict=True))
        freedom = total**2 / weights if weights else len(first) + len(second) - 2
        deviation = math.sqrt((stdev(first) ** 2 + stdev(second) ** 2) / 2)
        return cls(fmean(first) - fmean(second), math.sqrt(total), freedom, deviation, False)

    def bounds(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided confidence interval."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.mean - half, self.mean + half

    def p(self, null: float = 0.0) -> float:
        """Two-sided: the mean is `null`."""
        if self.error == 0:
            return 1.0 if self.mean == null else 0.0
        return 2 * float(stats.t.sf(abs(self.mean - null) / self.error, self.freedom))

    def p_equivalent(self, margin: float) -> float:
        """Two one-sided tests (Schuirmann 1987): the difference is outside +-margin."""
        if self.error == 0:
            return 0.0 if abs(self.mean) < margin else 1.0
        below = float(stats.t.sf((self.mean + margin) / self.error, self.freedom))
        above = float(stats.t.cdf((self.mean - margin) / self.error, self.freedom))
        return max(below, above)

    @property
    def cohen(self) -> float:
        """Cohen's d, for pairs d_z: the mean in units of the standard deviation; infinite where nothing varies."""
        if self.deviation == 0:
            return 0.0 if self.mean == 0 else math.copysign(math.inf, self.mean)
        return self.mean / self.deviation


def seeds_to_detect(effect: float, pairs: bool, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest seeds (for each arm) with which a two-sided t-test finds an effect, by the noncentral t distribution.

    Args:
        effect: Cohen's d; for pairs d_z.
        pairs: paired, or two independent samples of this size.
        power: the chance to find it.
        alpha: the chance to find one that is not there.

    Returns:
        at least 2; None if more than `MOST` are needed.
    """
    if effect == 0 or math.isnan(effect):
        return None

    def found(n: int) -> float:
        freedom, shift = (n - 1, abs(effect) * n**0.5) if pairs else (2 * n - 2, abs(effect) * (n / 2) ** 0.5)
        return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, freedom), freedom, min(shift, 30.0)))

    return _fewest(2, lambda n: found(n) >= power)


def seeds_to_equate(margin: float, pairs: bool, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest seeds with which two one-sided tests show that equal arms are equal within a margin.

    Args:
        margin: in standard deviations, as Cohen's d.
        pairs, power, alpha: as in `seeds_to_detect`.
    """

    def shown(n: int) -> float:
        freedom, shift = (n - 1, margin * n**0.5) if pairs else (2 * n - 2, margin * (n / 2) ** 0.5)
        return 2 * float(stats.t.cdf(shift - stats.t.ppf(1 - alpha, freedom), freedom)) - 1

    return _fewest(2, lambda n: shown(n) >= power)


@dataclass(frozen=True, slots=True)
class Rank:
    """Spearman's rank correlation.

    Attributes:
        rho: -1 to 1.
        p: two-sided, of no correlation.
        low, high: 95 % interval by Fisher's z with the variance of Bonett and Wright (2000), (1 + rho^2 / 2) / (n - 3).
    """

    rho: float
    p: float
    low: float
    high: float


def spearman(x: Sequence[float], y: Sequence[float]) -> Rank:
    """Of at least four pairs; rho is NaN if one side is constant."""
    rho, p = (float(number) for number in np.asarray(stats.spearmanr(x, y), dtype=float))
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z = math.atanh(max(min(rho, 1 - 1e-12), -1 + 1e-12)) if not math.isnan(rho) else math.nan
    return Rank(rho, p, math.tanh(z - half), math.tanh(z + half))


def pairs_to_correlate(rho: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest pairs with which Spearman's test finds a correlation, by Fisher's z."""
    if not 0 < abs(rho) < 1:
        return None if rho == 0 or math.isnan(rho) else 5
    wanted = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) / abs(math.atanh(rho))
    n = math.ceil(wanted**2 * (1 + rho**2 / 2) + 3)
    return n if n <= MOST else None


def binomial(hits: int, n: int) -> tuple[float, float, float]:
    """The sign test: its two-sided p of a share of one half, and the 95 % interval of the share (Clopper, Pearson)."""
    found = stats.binomtest(hits, n)
    ends = found.proportion_ci(0.95, "exact")
    return float(found.pvalue), float(ends.low), float(ends.high)


def seeds_for_share(share: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest pairs with which a two-sided sign test finds that a share differs from one half."""
    n = np.arange(6, MOST + 1)
    least = stats.binom.isf(alpha / 2, n, 0.5) + 1
    lacking = np.flatnonzero(stats.binom.sf(least - 1, n, max(share, 1 - share)) < power)
    first = int(lacking[-1]) + 1 if len(lacking) else 0
    return int(n[first]) if first < len(n) else None


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def _fewest(start: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `start` to `MOST` that is enough, where more is never worse."""
    if not enough(MOST):
        return None
    low, high = start, MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
