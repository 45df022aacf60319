"""How long a cycle is with which one way takes what another one takes: unit-epochs, or operations of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from meristem.study.studies.stability.early import Early
from meristem.study.studies.stability.masked import Grow, Prune
from meristem.study.studies.stability.nets import TRUNK
from meristem.study.studies.stability.settings import Bench

PARTS = 20
"""Into so many parts a cycle is cut where a net changes all the time."""


def pruned_like_grown(bench: Bench) -> float:
    """Epochs of a cycle with which pruning takes as many unit-epochs as growth."""
    grown, pruned = (way(share=bench.focus / 100).shares(bench.cycles) for way in (Grow, Prune))
    return bench.epochs * sum(grown) / sum(pruned)


def early_like_grown(bench: Bench) -> float:
    """Epochs of a cycle with which early division takes as many unit-epochs as growth."""
    grown = Grow(share=bench.focus / 100).shares(bench.cycles)
    return bench.epochs * sum(grown) / bench.cycles / _early(bench, lambda share: share)


def early_like_pruned(bench: Bench) -> float:
    """Epochs of a cycle with which early division takes as many operations as masked pruning executes.

    Under masks every step costs what a step of the whole net costs. Of edits nothing is counted: they cost less than a
    hundredth.
    """
    return bench.epochs * operations(bench, 1.0) / _early(bench, lambda share: operations(bench, share))


def operations(bench: Bench, share: float) -> float:
    """Of one training image in a net with a share of its units: multiplications, forward and backward.

    Each layer costs the same thrice (its output, the gradients of its input and of its weights), the first one twice.
    """
    channels, height, width = bench.shape
    costs: list[float] = []
    if bench.net == "conv":
        for units in TRUNK:
            costs.append(9.0 * channels * units * height * width)
            channels, height, width = units, height // 2, width // 2
    sizes = [math.prod((channels, height, width)), *(share * units for units in bench.widths), bench.classes]
    costs += [a * b for a, b in pairwise(sizes)]
    return 3 * sum(costs) - costs[0]


def _early(bench: Bench, cost: Callable[[float], float]) -> float:
    """Mean over the training of what a share of units costs."""
    shares = Early(share=bench.focus / 100).shares(PARTS * bench.cycles)
    return sum(map(cost, shares)) / len(shares)
