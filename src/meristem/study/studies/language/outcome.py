"""What came of a run: the loss for all that was spent, and what it took to reach a loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from meristem.train.record import Evaluation


def outcome(evaluations: Sequence[Evaluation], target: float, budget: float, since: float = 0.0) -> dict[str, float]:
    """What came of a run.

    Args:
        evaluations: those with a `test loss` count, by rising cost.
        target: the loss that it is about.
        budget: in floating-point operations.
        since: how many operations were spent when the net got its final shape; the target is not sought before.

    Returns:
        the loss once the budget is spent, and what it took to reach the target for the first time, operations as a
        share of the budget: between two looks as on a straight line. Where the target was never reached, `reached` is
        0, and costs are all that was spent: those of the target are higher.
    """
    looks = [(e.flops, e.seconds, e.values["test loss"]) for e in evaluations if "test loss" in e.values]
    final, reached = looks[-1][2], 0.0
    spent, seconds = looks[-1][:2]
    for (flops, time, loss), (later, clock, less) in pairwise(looks):
        if flops < budget <= later:
            final = loss + (less - loss) * (budget - flops) / (later - flops)
        if not reached and less <= target and later >= since:
            part = (loss - target) / (loss - less) if loss > target and flops >= since else 1.0
            spent, seconds, reached = flops + part * (later - flops), time + part * (clock - time), 1.0
    share = spent / budget
    return {
        "final loss": final,
        "reached": reached,
        "FLOPs to target": share,
        "70 % of FLOPs to target": 0.7 * share,
        "FLOPs saved": 1 - share,
        "seconds to target": seconds,
    }
