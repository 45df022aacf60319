"""Several seeds of one arm in one row: mean and 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

from meristem.train.record import Evaluation, Run


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
    """Mean and 95 % confidence interval by Student's t distribution: mean +- t(0.975, n - 1) * s / sqrt(n)."""
    n = len(values)
    if n < 2:
        return Interval(fmean(values), math.nan)
    return Interval(fmean(values), float(student.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n))


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of a study over its seeds.

    Attributes:
        final_accuracy, mean_accuracy: shares between 0 and 1; the second is averaged over the run's evaluations.
        parameters: at the end.
        flops: floating-point operations of the whole training, forward and backward.
        seconds: of the whole training, on one thread, evaluations not counted.
    """

    name: str
    seeds: int
    final_accuracy: Interval
    mean_accuracy: Interval
    parameters: Interval
    flops: Interval
    seconds: Interval


def summarize(name: str, runs: Sequence[Run]) -> Row:
    """The row of one arm."""
    last = [run.evaluations[-1] for run in runs]
    return Row(
        name=name,
        seeds=len(runs),
        final_accuracy=interval([run.final_accuracy for run in runs]),
        mean_accuracy=interval([run.mean_accuracy for run in runs]),
        parameters=interval([e.parameters for e in last]),
        flops=interval([e.flops for e in last]),
        seconds=interval([e.seconds for e in last]),
    )


def over_time(runs: Sequence[Run], value: Callable[[Evaluation], float]) -> list[Interval]:
    """Mean and interval over the runs at each of their evaluations, which all runs of an arm have at the same steps."""
    return [interval([value(e) for e in together]) for together in zip(*(r.evaluations for r in runs), strict=True)]
