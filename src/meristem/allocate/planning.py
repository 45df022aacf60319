"""From an amount to plans: which axes gain or lose how many units, within limits and budget, and which units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.division import (
    by_axis,
    divided,
    growth_divider,
    growth_offers,
    predictable,
    pruning_divider,
)
from meristem.allocate.limits import limits_of
from meristem.axes.map import Axis
from meristem.edit import Gather
from meristem.errors import EditError
from meristem.grow import Growth, Method
from meristem.grow.predicted import predicted_gains, require_gains
from meristem.prune import Criterion, Removal
from meristem.schedule.demand import Demand
from meristem.signals import View


def plan_growth(
    view: View, chosen: Sequence[Axis], demand: Demand, method: Method, allocator: Allocator
) -> tuple[Growth, ...]:
    """The growth that a demand asks for: one plan for every axis that gains units.

    What a method does not give on one axis is offered to the others, within limits and budget, and up to twice what
    they would have got. The plan of an axis that got less than it was asked for says why in its `note`; where it got
    nothing, the plan has no births.

    Args:
        view: the model today, with the statistics that the method needs.
        chosen: the axes that may grow; the method must be defined for each.
        demand: how many units, and the budget not to exceed.
        method: makes the newborns.
        allocator: divides the amount over the axes.

    Raises:
        ConfigError: the allocator wants gains, which the method does not predict; or the demand names another axis.
        EditError: the method gave more newborns than it was asked for, or gains that cannot be ranked.
    """
    allocator = growth_divider(demand, allocator)
    offers = growth_offers(view.axes, chosen, demand, allocator)
    if allocator.wants_gains:
        require_gains(method, type(allocator).__name__)
        amounts = by_axis(demand.amount, chosen)
        offers = [_predicted(view, amounts[offer.axis], method, allocator, offer) for offer in offers]
    made: dict[tuple[int, int], Growth] = {}
    notes: dict[int, Growth] = {}
    while True:
        counts = divided(demand, chosen, allocator, offers)
        plans = [_made(view, offer.axis, n, method, made) for offer, n in zip(offers, counts, strict=True) if n]
        asked = {offer.axis.index: n for offer, n in zip(offers, counts, strict=True)}
        short = {plan.axis.index: plan for plan in plans if plan.births < asked[plan.axis.index]}
        if not short:
            return _noted(method.settled(view, plans), notes)
        notes.update({index: _explained(plan, asked[index], method) for index, plan in short.items()})
        offers = [o.up_to(short[o.axis.index].births) if o.axis.index in short else o for o in offers]


def plan_pruning(
    view: View, chosen: Sequence[Axis], demand: Demand, criterion: Criterion, allocator: Allocator
) -> tuple[Removal, ...]:
    """The removals that a demand asks for: the lowest-scoring units of every axis that loses some.

    Args:
        view: the model today.
        chosen: the axes that may shrink; the criterion must be defined for each.
        demand: how many units, and the budget at which to stop.
        criterion: scores the units.
        allocator: divides the amount over the axes.

    Raises:
        ConfigError: the demand names another axis.
        EditError: the criterion gave scores that cannot be ranked.
    """
    allocator = pruning_divider(demand, allocator)
    offers = [
        _pruning_offer(view, axis, most, criterion, allocator) for axis, most in by_axis(demand.amount, chosen).items()
    ]
    counts = divided(demand, chosen, allocator, offers)
    return tuple(
        Removal(offer.axis, tuple(sorted(offer.scores.argsort(stable=True)[:n].tolist())))
        for offer, n in zip(offers, counts, strict=True)
        if n and offer.scores is not None
    )


def _predicted(view: View, most: int, method: Method, allocator: Allocator, offer: Offer) -> Offer:
    """An offer for growth with what newborns are predicted to bring."""
    if not offer.counts:
        return replace(offer, gains=torch.zeros(0, dtype=torch.float64))
    count = predictable(offer, most, allocator)
    return replace(offer, gains=predicted_gains(method, view, offer.axis, count, type(allocator).__name__))


def _pruning_offer(view: View, axis: Axis, most: int, criterion: Criterion, allocator: Allocator) -> Offer:
    scores = _scores(view, axis, criterion)
    mortal = int((scores < torch.inf).sum())
    counts = limits_of(allocator.limits, axis).counts("prune", axis.size, mortal)
    return Offer(axis, "prune", counts, view.axes, scores).nearly(most)


def _made(view: View, axis: Axis, count: int, method: Method, made: dict[tuple[int, int], Growth]) -> Growth:
    """The method's plan for so many newborns, asked for once; one that fell short is also the plan for what it gave."""
    if (axis.index, count) not in made:
        plan = method.propose(view, axis, count)
        if plan.births > count:
            raise EditError(f"{type(method).__name__} gave {plan.births} newborns for {axis.name!r}, asked for {count}")
        made[axis.index, count] = made[axis.index, plan.births] = plan
    return made[axis.index, count]


def _explained(plan: Growth, asked: int, method: Method) -> Growth:
    """A plan that fell short, with a note."""
    return replace(plan, note=plan.note or f"{type(method).__name__} gave {plan.births} of {asked} units")


def _noted(plans: Sequence[Growth], short: Mapping[int, Growth]) -> tuple[Growth, ...]:
    """Plans, with the notes of those that fell short on the way; without births where nothing came of them."""
    found = [replace(plan, note=short[plan.axis.index].note) if plan.axis.index in short else plan for plan in plans]
    planned = {plan.axis.index for plan in plans}
    left = [growth for index, growth in short.items() if index not in planned]
    return (*found, *(replace(g, gather=Gather.keep(g.axis.size, range(g.axis.size)), gains=()) for g in left))


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
