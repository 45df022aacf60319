"""From an amount to plans: which axes gain or lose how many units, within limits and budget, and which units."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.limits import limits_of
from meristem.axes.map import Axis, AxisMap
from meristem.errors import EditError
from meristem.grow import Growth, Method
from meristem.prune import Criterion, Removal
from meristem.schedule.schedule import Budget, Demand
from meristem.signals import View


def plan_growth(
    view: View, chosen: Sequence[Axis], demand: Demand, method: Method, allocator: Allocator
) -> tuple[Growth, ...]:
    """The growth that a demand asks for: one plan for every axis that gains units.

    Args:
        view: the model today.
        chosen: the axes that may grow; the method must be defined for each.
        demand: how many units in all, and the budget not to exceed.
        method: makes the newborns.
        allocator: divides the amount over the axes.
    """
    total = in_units(demand.amount, chosen)
    limits = allocator.limits_for("grow")
    offers = [Offer(a, "grow", limits_of(limits, a).counts("grow", a.size, total)) for a in chosen]
    counts = partial(allocator.counts, offers=offers)
    if demand.budget is not None:
        total = _within(view.axes, offers, counts, total, demand.budget)
    return tuple(method.propose(view, a, n) for a, n in zip(chosen, counts(total), strict=True) if n)


def plan_pruning(
    view: View, chosen: Sequence[Axis], demand: Demand, criterion: Criterion, allocator: Allocator
) -> tuple[Removal, ...]:
    """The removals that a demand asks for: the lowest-scoring units of every axis that loses some.

    Args:
        view: the model today.
        chosen: the axes that may shrink; the criterion must be defined for each.
        demand: how many units in all, and the budget at which to stop.
        criterion: scores the units.
        allocator: divides the amount over the axes.
    """
    total = in_units(demand.amount, chosen)
    limits = allocator.limits_for("prune")
    scored = [(axis, _scores(view, axis, criterion)) for axis in chosen]
    offers = [
        Offer(axis, "prune", limits_of(limits, axis).counts("prune", axis.size, int((s < torch.inf).sum())), s)
        for axis, s in scored
    ]
    counts = partial(allocator.counts, offers=offers)
    if demand.budget is not None:
        total = _within(view.axes, offers, counts, total, demand.budget)
    return tuple(
        Removal(axis, tuple(sorted(scores.argsort(stable=True)[:n].tolist())))
        for (axis, scores), n in zip(scored, counts(total), strict=True)
        if n
    )


def in_units(amount: int | float, chosen: Sequence[Axis]) -> int:
    """An amount as a number of units: an int is one, a float is a fraction of all units of the chosen axes."""
    return amount if isinstance(amount, int) else round(amount * sum(axis.size for axis in chosen))


def _within(
    axes: AxisMap,
    offers: Sequence[Offer],
    counts: Callable[[int], tuple[int, ...]],
    total: int,
    budget: Budget,
) -> int:
    """The largest growth, at most `total`, that keeps the budget; or the smallest pruning that meets it."""
    growing = bool(offers) and offers[0].action == "grow"

    def met(amount: int) -> bool:
        sizes = list(axes.sizes)
        for offer, count in zip(offers, counts(amount), strict=True):
            sizes[offer.axis.index] += count if growing else -count
        return budget.met(axes, sizes)

    if growing:
        return max(0, bisect_left(range(total + 1), True, key=lambda amount: not met(amount)) - 1)
    return min(total, bisect_left(range(total + 1), True, key=met))


def _scores(view: View, axis: Axis, criterion: Criterion) -> Tensor:
    """The criterion's scores of one axis: float64 on the CPU, checked."""
    scores = criterion.scores(view, axis).detach().to("cpu", torch.float64)
    if scores.shape != (axis.size,) or bool(scores.isnan().any()):
        raise EditError(
            f"{type(criterion).__name__} gave scores of shape {tuple(scores.shape)} with "
            f"{int(scores.isnan().sum())} NaN for {axis.name!r}; expected shape ({axis.size},) without NaN. "
            "If the weights of the model are NaN, training has diverged before this edit."
        )
    return scores
