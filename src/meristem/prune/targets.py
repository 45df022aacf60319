"""How much can be pruned, by what is measured while it is tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from meristem.axes.map import AxisMap
from meristem.edit import Change, ZeroFanOut, trial
from meristem.prune.criterion import Removal

Plans: TypeAlias = "Callable[[int], Sequence[Removal]]"
"""The removals that an amount means, `meristem.allocate.plan_pruning` for example."""


def measured(axes: AxisMap, plans: Sequence[Removal], measure: Callable[[], float]) -> float:
    """What a measurement gives while plans are tried; afterwards the model is as before, bit for bit.

    Raises:
        EditError, StaleMapError: the plans do not fit the model.
    """
    if not plans:
        return float(measure())
    changes = [Change(plan.axis, plan.gather, plan.start or ZeroFanOut()) for plan in plans]
    with trial(axes, changes), torch.no_grad():
        return float(measure())


def most_within(
    axes: AxisMap, plans: Plans, most: int, measure: Callable[[], float], bound: float
) -> tuple[Removal, ...]:
    """As much as keeps a measurement within a bound: the loss, say.

        plans = lambda n: plan_pruning(view, chosen, Demand("prune", n), criterion, allocator)
        found = most_within(axes, plans, 500, closure, 1.05 * float(closure()))

    By bisection over the amount: about `log2(most)` trials. A measurement that does not rise with the amount is bounded
    at what is returned, but there may be larger amounts at which it is too. Noise makes the result noisy: measure on a
    fixed batch.

    Args:
        axes: the map.
        plans: gives the removals for an amount.
        most: the largest amount.
        measure: called with the model in the structure that is tried; without gradients.
        bound: what it may be at most.

    Returns:
        the removals; empty if even the smallest amount is beyond the bound.
    """
    good, bad = 0, most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if measured(axes, plans(middle), measure) <= bound:
            good = middle
        else:
            bad = middle
    return tuple(plans(good)) if good else ()


def least_within(
    axes: AxisMap, plans: Plans, most: int, measure: Callable[[], float], bound: float
) -> tuple[Removal, ...] | None:
    """As little as brings a measurement down to a bound: the latency, say.

        found = least_within(axes, plans, 500, lambda: latency(model, x), 0.5 * latency(model, x))

    By bisection, as `most_within`: the bound is met at what is returned, but if the measurement does not fall with the
    amount there may be smaller amounts at which it is, too.

    Returns:
        the removals, or None if even the largest amount does not meet the bound.
    """
    bad, good = -1, most + 1
    while good - bad > 1:
        middle = (good + bad) // 2
        if measured(axes, plans(middle) if middle else (), measure) <= bound:
            good = middle
        else:
            bad = middle
    if good > most:
        return None
    return tuple(plans(good)) if good else ()
