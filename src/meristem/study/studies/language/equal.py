"""Losses when two arms have spent the same, computed from the looks of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import nan
from typing import Literal

from meristem.errors import ConfigError
from meristem.study.claim import Outcome, Results, Test
from meristem.study.comparisons import Greater
from meristem.train.record import Run

Cost = Literal["flops", "seconds"]


@dataclass(frozen=True)
class LowerAtEqual(Test):
    """The first arm's test loss is lower than the second's once both have spent the same: a paired t-test over seeds.

    Seed by seed they are compared where the run ends that has spent less by its end; the other is taken there, between
    two looks as on a straight line. So neither is continued beyond what was seen. Verdicts as of `Greater`.

    Attributes:
        cost: what both have spent.
        first, second: arms.
        margin: the smallest difference that would matter, in nats a character.
    """

    cost: Cost
    first: str
    second: str
    margin: float = 0.0

    def outcome(self, results: Results) -> Outcome:
        for arm in (self.first, self.second):
            if arm not in results:
                raise ConfigError(f"there is no arm {arm!r}; expected one of {', '.join(map(repr, results))}")
        metric = f"test loss at equal {'operations' if self.cost == 'flops' else self.cost}"
        met: dict[str, list[Run]] = {self.first: [], self.second: []}
        others = {run.seed: run for run in results[self.second]}
        for run in results[self.first]:
            if run.seed in others:
                pair = {self.first: run, self.second: others[run.seed]}
                spent = min(looks(one, self.cost)[-1][0] for one in pair.values())
                for arm, one in pair.items():
                    met[arm].append(replace(one, metrics={metric: loss_at(one, self.cost, spent)}))
        return Greater(metric, self.second, self.first, self.margin).outcome(met)


def looks(run: Run, cost: Cost) -> Sequence[tuple[float, float]]:
    """What was spent and the test loss, at every look."""
    return [(getattr(e, cost), e.values["test loss"]) for e in run.evaluations if "test loss" in e.values]


def loss_at(run: Run, cost: Cost, spent: float) -> float:
    """The test loss when so much is spent, between two looks as on a straight line; NaN outside of them."""
    for (before, loss), (after, less) in pairwise(looks(run, cost)):
        if before <= spent <= after:
            return loss + (less - loss) * (spent - before) / (after - before)
    return nan
