"""Means and confidence intervals."""

import math

import numpy as np
import pytest

from meristem.study import interval, summarize
from meristem.study.summary import over_time
from tests.report.runs import RESULTS


def test_the_interval_is_students():
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert (found.low, found.high) == (found.mean - found.half_width, found.mean + found.half_width)


def test_a_single_value_has_no_interval():
    assert math.isnan(interval([3.0]).half_width)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(sample) for sample in rng.normal(1.0, 2.0, (2000, 5)).tolist()]
    covered = sum(each.low <= 1.0 <= each.high for each in found) / len(found)
    assert covered == pytest.approx(0.95, abs=0.02)


def test_rows_and_courses():
    row = summarize("grown", RESULTS["grown"])
    assert (row.name, row.seeds) == ("grown", 3)
    assert row.final_accuracy.mean == pytest.approx(0.81)
    assert row.mean_accuracy.mean == pytest.approx(0.71)
    assert row.flops.mean == pytest.approx(120e9)
    assert [point.mean for point in over_time(RESULTS["grown"], lambda e: e.step)] == [10, 20, 30]
