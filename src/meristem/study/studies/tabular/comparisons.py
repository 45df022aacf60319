"""A test that this study needs: not worse than what a search would have chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meristem.study.claim import Outcome, Results, Test, values
from meristem.study.studies.bottleneck.comparisons import NotWorse
from meristem.train.record import Costs, Run


@dataclass(frozen=True)
class NotWorseThanChosen(Test):
    """An arm is not worse than the best of several, each seed's best being chosen by another number of its runs.

    As `NotWorse`, against the runs that a search would have chosen: of each seed the one with the highest `by`, which
    is a score on data that the metric is not about. So the others have no advantage of hindsight.

    Attributes:
        metric: of the runs; more is better.
        arm: a single one.
        others: those among which is chosen.
        by: what is chosen by; more is better.
        margin: how much worse still counts as not worse.
    """

    metric: str
    arm: str
    others: tuple[str, ...]
    by: str
    margin: float

    def outcome(self, results: Results) -> Outcome:
        values(results, self.others, self.by)  # refuses arms that are not there
        name = f"best by {self.by} of {', '.join(self.others)}"
        found = {**results, name: chosen(results, self.others, self.by, self.metric)}
        return NotWorse(self.metric, self.arm, name, self.margin).outcome(found)


def chosen(results: Results, arms: tuple[str, ...], by: str, metric: str) -> list[Run]:
    """Of every seed that all arms have the metric of the run with the highest number `by`; nothing else is known."""
    runs = [{run.seed: run for run in results[arm]} for arm in arms]
    best: list[Run] = []
    for seed in runs[0]:
        if all(seed in each for each in runs):
            found = max((each[seed] for each in runs), key=lambda run: (run.value(by), -math.inf))
            best.append(Run(seed, {metric: found.value(metric)}, (), (), Costs(0, 0, 0, 0, None)))
    return best
