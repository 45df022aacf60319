"""What a criterion leaves to be removed or replaced, and amounts that it decides itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.division import by_axis
from meristem.allocate.limits import limits_of
from meristem.axes.map import Axis
from meristem.errors import EditError
from meristem.prune import Criterion
from meristem.schedule.demand import Below, Demand, Rate
from meristem.signals import View


def scored_offers(
    view: View,
    chosen: Sequence[Axis],
    demand: Demand,
    criterion: Criterion,
    allocator: Allocator,
    owed: Mapping[str, float],
) -> tuple[Demand, list[Offer], Mapping[str, float]]:
    """What can be removed from each axis, or replaced on it.

    Args:
        view: the model today.
        chosen: the axes that may be edited.
        demand: how many units to remove or to replace.
        criterion: scores them.
        allocator: its limits hold for removals.
        owed: by axis name, the part of a unit that earlier demands for a `Rate` have left.

    Returns:
        the demand with its amount in numbers, one offer for every axis that it is for, and what is owed afterwards.
    """
    asked = chosen if isinstance(demand.amount, (Below, Rate)) else by_axis(demand.amount, chosen)
    scores = {axis: scores_of(view, axis, criterion) for axis in asked}
    demand, owed = _in_numbers(demand, scores, owed)
    most = by_axis(demand.amount, chosen)
    offers = [_offer(view, axis, demand, criterion, allocator, scores[axis]).nearly(most[axis]) for axis in most]
    return demand, offers, owed


def lowest(offer: Offer, count: int) -> tuple[int, ...]:
    """The units of an axis that score lowest, the lowest first."""
    assert offer.scores is not None
    return tuple(offer.scores.argsort(stable=True)[:count].tolist())


def _in_numbers(
    demand: Demand, scores: Mapping[Axis, Tensor], owed: Mapping[str, float]
) -> tuple[Demand, Mapping[str, float]]:
    amount = demand.amount
    if isinstance(amount, Below):
        numbers = {axis.name: int((found <= amount.threshold).sum()) for axis, found in scores.items()}
        return replace(demand, amount=numbers), owed
    if not isinstance(amount, Rate):
        return demand, owed
    due = {axis.name: owed.get(axis.name, 0.0) + amount.share * _mortal(found) for axis, found in scores.items()}
    numbers = {axis.name: min(int(due[axis.name]), _mortal(found)) for axis, found in scores.items()}
    return replace(demand, amount=numbers), {**owed, **{name: due[name] - numbers[name] for name in due}}


def _offer(view: View, axis: Axis, demand: Demand, criterion: Criterion, allocator: Allocator, scores: Tensor) -> Offer:
    if demand.action == "replace":
        counts = range(1, _mortal(scores) + 1)
    else:
        counts = limits_of(allocator.limits, axis).counts("prune", axis.size, _mortal(scores))
    return Offer(axis, demand.action, counts, view.axes, scores, comparable=criterion.comparable)


def _mortal(scores: Tensor) -> int:
    """How many units may die."""
    return int((scores < torch.inf).sum())


def scores_of(view: View, axis: Axis, criterion: Criterion) -> Tensor:
    """The criterion's scores of one axis: float64 on the CPU, checked."""
    scores = criterion.scores(view, axis).detach().to("cpu", torch.float64)
    if scores.shape != (axis.size,) or bool(scores.isnan().any()):
        raise EditError(
            f"{type(criterion).__name__} gave scores of shape {tuple(scores.shape)} with "
            f"{int(scores.isnan().sum())} NaN for {axis.name!r}; expected shape ({axis.size},) without NaN. "
            "If the weights of the model are NaN, training has diverged before this edit."
        )
    return scores
