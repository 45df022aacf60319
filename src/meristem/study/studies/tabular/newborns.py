"""What a monitor saw of newborns, in three numbers of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from meristem.diagnose import Record

YOUNG = 200
"""Cohorts count as newborn up to this age, in optimizer steps."""


def parity(records: Sequence[Record]) -> dict[str, float]:
    """R_act, R_grad and the ratio of fan-out norms: medians over all looks at all cohorts of at most `YOUNG` steps.

    NaN where there were no newborns, or where their incumbents had nothing.
    """
    seen = [c for record in records for axis in record.axes.values() for c in axis.cohorts if c.age <= YOUNG]
    found = {
        "R_act": [cohort.activation for cohort in seen],
        "R_grad": [cohort.gradient for cohort in seen],
        "fan-out ratio": [cohort.fan_out for cohort in seen],
    }
    there = {name: [ratio for ratio in ratios if ratio is not None] for name, ratios in found.items()}
    return {name: statistics.median(ratios) if ratios else float("nan") for name, ratios in there.items()}
