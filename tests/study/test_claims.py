"""What tests of claims conclude from runs with known numbers."""

import math

import pytest

from meristem.errors import ConfigError
from meristem.study import (
    Above,
    Below,
    Claim,
    Correlated,
    Equivalent,
    Greater,
    MoreOften,
    Run,
    Trend,
    judge,
)
from meristem.train.record import Costs


def runs(values, name="score", **more):
    """One run for each value; further metrics by name."""
    return [
        Run(seed, {name: value, **{k: v[seed] for k, v in more.items()}}, (), (), Costs(1e6 * seed, 0, 1, 0, None))
        for seed, value in enumerate(values)
    ]


BASE = [1.0, 1.2, 0.9, 1.1, 1.05]
RESULTS = {
    "base": runs(BASE),
    "better": runs([value + gain for value, gain in zip(BASE, [0.5, 0.6, 0.4, 0.5, 0.55], strict=True)]),
    "same": runs([value + gain for value, gain in zip(BASE, [0.01, -0.01, 0.0, 0.02, -0.01], strict=True)]),
    "unclear": runs([value + gain for value, gain in zip(BASE, [0.5, -0.3, 0.4, 0.1, -0.1], strict=True)]),
    "broken": runs([1.5, math.nan, 1.4, 1.6, 1.5]),
}


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (Greater("score", "better", "base"), "reproduced"),
        (Greater("score", "better", "base", margin=0.3), "reproduced"),
        (Greater("score", "better", "base", margin=1.0), "smaller than matters"),
        (Above("score", "better", 1.0, margin=2.0), "smaller than matters"),
        (Below("score", "base", 2.0, margin=5.0), "smaller than matters"),
        (Greater("score", "base", "better"), "not reproduced"),
        (Greater("score", "same", "base", margin=0.1), "not reproduced"),
        (Greater("score", "same", "base"), "undecided"),
        (Greater("score", "unclear", "base", margin=0.1), "undecided"),
        (Greater("score", "better", "base", paired=False), "reproduced"),
        (Equivalent("score", "same", "base", margin=0.05), "reproduced"),
        (Equivalent("score", "better", "base", margin=0.1), "not reproduced"),
        (Equivalent("score", "unclear", "base", margin=0.1), "undecided"),
        (Above("score", "better", 1.0), "reproduced"),
        (Above("score", "base", 2.0), "not reproduced"),
        (Above("score", "base", 1.0), "undecided"),
        (Below("score", "base", 2.0), "reproduced"),
        (Below("score", "better", 1.0), "not reproduced"),
        (Greater("flops", "better", "base", margin=1.0), "not reproduced"),
        (Greater("flops", "better", "base"), "not reproduced"),
    ],
)
def test_verdicts(test, verdict):
    outcome = test.outcome(RESULTS)
    assert outcome.verdict == verdict
    assert outcome.low <= outcome.estimate <= outcome.high
    assert outcome.values == 5
    assert (outcome.needed is not None) == (verdict == "undecided")


def test_the_margin_and_what_was_seen_decide_how_many_seeds_it_takes():
    few = Greater("score", "unclear", "base", margin=0.5).outcome(RESULTS).needed
    many = Greater("score", "unclear", "base").outcome(RESULTS).needed
    assert few is not None
    assert many is not None
    assert 5 < few < many


def test_estimates_are_in_the_unit_of_the_metric_and_against_the_level():
    assert Greater("score", "better", "base").outcome(RESULTS).estimate == pytest.approx(0.51)
    low = Below("score", "base", 2.0).outcome(RESULTS)
    assert low.estimate == pytest.approx(1.05)
    assert low.low < 1.05 < low.high < 2.0
    assert low.effect < 0


def test_arms_are_averaged_seed_by_seed():
    found = Greater("score", ("better", "base"), "base").outcome(RESULTS)
    assert found.estimate == pytest.approx(0.255)
    assert found.what == "score: mean of better, base − base"


def test_two_metrics_can_be_compared():
    results = {"arm": runs([1.0, 2.0, 3.0], other=[0.5, 1.4, 2.6])}
    found = Greater("score", "arm", "arm", against="other").outcome(results)
    assert found.estimate == pytest.approx(0.5)
    assert found.verdict == "reproduced"


def test_runs_without_a_value_are_left_out_and_counted():
    found = Greater("score", "broken", "base").outcome(RESULTS)
    assert (found.values, found.left_out) == (4, 1)


def test_a_single_seed_decides_nothing():
    results = {name: arm[:1] for name, arm in RESULTS.items()}
    for test in (Greater("score", "better", "base"), Equivalent("score", "base", "same", 1), Above("score", "base", 0)):
        found = test.outcome(results)
        assert (found.verdict, found.needed) == ("undecided", 2)
        assert math.isnan(found.estimate)


def test_ranks_over_arms_and_over_runs():
    scores = [0.1, 0.2, 0.25, 0.4, 0.38, 0.6, 0.7, 0.9]
    results = {str(k): runs([score - 0.1, score + 0.1], x=[k, k]) for k, score in enumerate(scores)}
    found = Correlated("x", "score", tuple(results)).outcome(results)
    assert (found.verdict, found.values) == ("reproduced", 8)
    assert Correlated("x", "score", tuple(results), "negative").outcome(results).verdict == "not reproduced"
    flat = {str(k): runs([0.5], x=[k]) for k in range(8)}
    assert Correlated("x", "score", tuple(flat)).outcome(flat).verdict == "undecided"


def test_many_seeds_of_few_arms_are_no_correlation():
    """All the runs of three arms rise together, and are three points."""
    results = {str(k): runs([k + 0.1 * seed for seed in range(9)], x=[k] * 9) for k in range(3)}
    assert Correlated("x", "score", tuple(results)).outcome(results).verdict == "undecided"


def test_trends_are_over_runs():
    arms = {str(k): runs([k + 0.1, k + 0.2, k - 0.3]) for k in range(4)}
    found = Trend("score", {str(k): k for k in range(4)}).outcome(arms)
    assert found.verdict == "reproduced"
    assert found.values == 12


def test_signs():
    results = {"a": runs([2.0] * 8), "b": runs([1.0] * 8), "c": runs([2.0] * 7 + [1.0])}
    assert MoreOften("score", "a", "b").outcome(results).verdict == "reproduced"
    assert MoreOften("score", "b", "a").outcome(results).verdict == "not reproduced"
    ties = MoreOften("score", "a", "c").outcome(results)
    assert (ties.verdict, ties.values) == ("undecided", 1)


def test_a_claim_stands_by_all_its_tests():
    good, bad, open_ = (
        Greater("score", "better", "base"),
        Greater("score", "base", "better"),
        Greater("score", "unclear", "base", margin=0.1),
    )
    small = Greater("score", "better", "base", margin=1.0)
    claims = [Claim("", tests) for tests in ([good], [good, small], [small, good, open_], [good, small, bad, open_])]
    verdicts = ["reproduced", "smaller than matters", "undecided", "not reproduced"]
    assert [f.verdict for f in judge(claims, RESULTS)] == verdicts


def test_a_claim_without_tests_is_refused():
    with pytest.raises(ConfigError, match="'It is so' has no tests"):
        Claim("It is so", [])


def test_p_values_are_corrected_over_all_claims_together():
    claims = [Claim("", [Greater("score", "better", "base")]), Claim("", [Greater("score", "unclear", "base")])]
    first, second = (finding.outcomes[0] for finding in judge(claims, RESULTS))
    assert first.p_holm == pytest.approx(2 * first.p)
    assert second.p_holm == second.p


@pytest.mark.parametrize(
    ("test", "message"), [(Above("score", "none", 1), "'base'"), (Above("sc", "base", 1), "score")]
)
def test_unknown_arms_and_metrics(test, message):
    with pytest.raises(ConfigError, match=message):
        test.outcome(RESULTS)
