"""Intervals, tests and powers against scipy, formulas by hand, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from meristem.study.statistics import (
    Difference,
    binomial,
    holm,
    interval,
    pairs_to_correlate,
    seeds_for_share,
    seeds_to_detect,
    seeds_to_equate,
    spearman,
)

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(1.0, 1.0, 9).tolist(), RNG.normal(0.2, 2.0, 9).tolist()


def test_the_interval_is_students():
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert (found.low, found.high) == (found.mean - found.half_width, found.mean + found.half_width)


def test_a_single_value_has_no_interval():
    assert math.isnan(interval([3.0]).half_width)


def test_what_has_diverged_has_a_mean_without_an_interval():
    found = interval([1.0, math.inf, 2.0])
    assert math.isinf(found.mean)
    assert math.isnan(found.half_width)
    assert math.isnan(interval([math.inf, -math.inf]).mean)
    assert math.isnan(interval([math.nan, 1.0]).half_width)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(sample) for sample in rng.normal(1.0, 2.0, (2000, 5)).tolist()]
    covered = sum(each.low <= 1.0 <= each.high for each in found) / len(found)
    assert covered == pytest.approx(0.95, abs=0.02)


def test_pairs_agree_with_scipy():
    ours = Difference.paired([a - b for a, b in zip(FIRST, SECOND, strict=True)])
    theirs = stats.ttest_rel(FIRST, SECOND)
    assert ours.p() == pytest.approx(theirs.pvalue)
    assert ours.bounds() == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert ours.cohen == pytest.approx(theirs.statistic / 3)


def test_welch_agrees_with_scipy():
    ours = Difference.welch(FIRST[:5], SECOND)
    theirs = stats.ttest_ind(FIRST[:5], SECOND, equal_var=False)
    assert ours.p() == pytest.approx(theirs.pvalue)
    assert ours.freedom == pytest.approx(theirs.df)
    assert ours.bounds() == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_equivalence_is_two_one_sided_tests():
    differences = np.subtract(FIRST, SECOND)
    below = stats.ttest_1samp(differences, -1.5, alternative="greater").pvalue
    above = stats.ttest_1samp(differences, 1.5, alternative="less").pvalue
    ours = Difference.paired(differences.tolist())
    assert ours.p_equivalent(1.5) == pytest.approx(max(below, above))
    low, high = ours.bounds(0.9)
    margin = max(-low, high)  # the smallest margin for which the 90 % interval lies within it
    assert ours.p_equivalent(margin) == pytest.approx(0.05)


def test_differences_that_do_not_vary():
    none, some = Difference.paired([0.0, 0.0, 0.0]), Difference.paired([2.0, 2.0, 2.0])
    assert (none.p(), none.p_equivalent(0.1), none.cohen) == (1.0, 0.0, 0.0)
    assert (some.p(), some.p_equivalent(0.1), some.cohen) == (0.0, 1.0, math.inf)


@pytest.mark.parametrize(("effect", "pairs", "expected"), [(0.5, True, 34), (0.8, False, 26), (1.0, True, 10)])
def test_numbers_of_seeds_are_those_of_textbooks(effect, pairs, expected):
    # Cohen 1988 and G*Power: two-sided, 5 %, power 80 %
    assert seeds_to_detect(effect, pairs) == expected
    assert seeds_to_detect(-effect, pairs) == expected


@pytest.mark.parametrize("pairs", [True, False])
def test_that_many_seeds_have_the_power(pairs):
    n = seeds_to_detect(0.9, pairs)
    assert n is not None
    x = np.random.default_rng(1).normal(0.9, 1.0, (4000, n))
    y = np.random.default_rng(2).normal(0.0, 1.0, (4000, n))
    p = stats.ttest_1samp(x, 0, axis=1).pvalue if pairs else stats.ttest_ind(x, y, axis=1).pvalue
    assert 0.77 < (p < 0.05).mean() < 0.9


def test_that_many_seeds_show_equality():
    n = seeds_to_equate(1.0, pairs=True)
    assert n is not None
    samples = np.random.default_rng(1).normal(0.0, 1.0, (2000, n)).tolist()
    shown = np.mean([Difference.paired(sample).p_equivalent(1.0) < 0.05 for sample in samples])
    assert 0.77 < shown < 0.9


def test_effects_that_cannot_be_found():
    assert seeds_to_detect(0.0, True) is None
    assert seeds_to_detect(math.nan, True) is None
    assert seeds_to_detect(0.01, True) is None
    assert seeds_for_share(0.5) is None
    assert pairs_to_correlate(0.0) is None
    assert seeds_to_detect(100.0, True) == 2


def test_rank_correlation_agrees_with_scipy_and_its_interval_covers():
    x = RNG.normal(size=20)
    y = x + RNG.normal(size=20)
    ours, theirs = spearman(x.tolist(), y.tolist()), stats.spearmanr(x, y)
    assert (ours.rho, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    true = 6 / math.pi * math.asin(0.6 / 2)  # of a normal pair whose correlation is 0.6
    pairs = np.random.default_rng(3).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], (1000, 25))
    found = [spearman(pair[:, 0].tolist(), pair[:, 1].tolist()) for pair in pairs]
    assert np.mean([each.low <= true <= each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_pairs_to_correlate_have_the_power():
    n = pairs_to_correlate(0.5)
    assert n is not None
    covariance = 2 * math.sin(math.pi * 0.5 / 6)
    pairs = np.random.default_rng(4).multivariate_normal([0, 0], [[1, covariance], [covariance, 1]], (1000, n))
    found = np.mean([stats.spearmanr(pair[:, 0], pair[:, 1]).pvalue < 0.05 for pair in pairs])
    assert found == pytest.approx(0.8, abs=0.06)


def test_the_sign_test_agrees_with_scipy():
    p, low, high = binomial(9, 10)
    assert p == pytest.approx(stats.binomtest(9, 10).pvalue)
    assert (low, high) == pytest.approx((0.55498, 0.99747), abs=1e-4)
    n = seeds_for_share(0.9)
    assert n is not None
    hits = np.random.default_rng(5).binomial(n, 0.9, 4000)
    assert np.mean([stats.binomtest(int(h), n).pvalue <= 0.05 for h in hits]) >= 0.78


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
