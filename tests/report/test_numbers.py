"""Numbers as people read them."""

import math

import pytest

from meristem.report.intervals import amount, duration, percent
from meristem.report.numbers import with_prefix
from meristem.study import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1 k"), (11689512, "11.7 M"), (3.63e9, "3.63 G"), (999_999, "1 M")],
)
def test_prefixes(value, text):
    assert with_prefix(value) == text


def test_intervals():
    assert percent(Interval(0.9731, 0.0042)) == "97.3 ± 0.4"
    assert amount(Interval(56362, 0)) == "56.4 k"
    assert amount(Interval(56362, 1200)) == "56.4 k ± 1.2 k"
    assert duration(Interval(4.23, math.nan)) == "4.2"


def test_the_unit_follows_the_prefix():
    assert with_prefix(96, "FLOP") == "96 FLOP"
    assert with_prefix(1_282_752, "FLOP") == "1.28 MFLOP"
