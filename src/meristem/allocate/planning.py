"""From an amount to plans: which axes gain or lose how many units, within limits and budget, and which units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.division import (
    by_axis,
    divided,
    divider,
    growth_offers,
    in_units,
    predictable,
)
from meristem.allocate.limits import limits_of
from meristem.allocate.scored import lowest, scored_offers
from meristem.allocate.shortfall import held_back
from meristem.axes.map import Axis
from meristem.edit import Gather
from meristem.errors import EditError
from meristem.grow import Growth, Method
from meristem.grow.predicted import predicted_gains, require_gains
from meristem.prune import Criterion, Gone, Removal
from meristem.schedule.demand import Demand, Fixed
from meristem.signals import View


class Growing(NamedTuple):
    """What a demand to grow comes to.

    Attributes:
        plans: one for every axis that gains units, or got less than it was asked for.
        notes: which limits kept back how much before the method was asked.
    """

    plans: tuple[Growth, ...]
    notes: tuple[str, ...]


def plan_growth(view: View, chosen: Sequence[Axis], demand: Demand, method: Method, allocator: Allocator) -> Growing:
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
        ConfigError: the allocator wants gains, which the method does not predict, or a closure, which was not given; or
            the demand names another axis.
        EditError: the method gave more newborns than it was asked for, or gains that cannot be ranked.
    """
    allocator = divider(demand, allocator)
    offers = growth_offers(view.axes, chosen, demand, allocator)
    if allocator.wants_gains:
        require_gains(method, type(allocator).__name__)
        amounts = by_axis(demand.amount, chosen)
        offers = [_predicted(view, amounts[offer.axis], method, allocator, offer) for offer in offers]
    offers = list(allocator.polled(view, offers, in_units(demand.amount, chosen)))
    made: dict[tuple[int, int], Growth] = {}
    notes: dict[int, Growth] = {}
    limited: tuple[str, ...] | None = None
    while True:
        counts = divided(demand, chosen, allocator, offers)
        limited = held_back(demand, chosen, allocator, offers, sum(counts)) if limited is None else limited
        plans = [proposed(view, offer.axis, n, method, made) for offer, n in zip(offers, counts, strict=True) if n]
        asked = {offer.axis.index: n for offer, n in zip(offers, counts, strict=True)}
        short = {plan.axis.index: plan for plan in plans if plan.births < asked[plan.axis.index]}
        if not short:
            return Growing(_noted(method.settled(view, plans), notes), limited)
        offers = [o.up_to(short[o.axis.index].births) if o.axis.index in short else o for o in offers]
        for offer in (o for o in offers if o.axis.index in short):
            index, multiple = offer.axis.index, limits_of(allocator.limits, offer.axis).multiple
            notes[index] = _explained(short[index], asked[index], method, offer.most, multiple)


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
    return plan_next_pruning(view, chosen, demand, criterion, allocator, {}).plans


class Pruning(NamedTuple):
    """What a demand to prune comes to.

    Attributes:
        plans: one for every axis that loses units.
        asked: how many units were asked for.
        owed: what is owed afterwards.
    """

    plans: tuple[Removal, ...]
    asked: int
    owed: Mapping[str, float]


ALL = "*"
"""Where the part of a unit that shares of all units have left stands among what is owed by axis name."""

GONE = "**"
"""Where the share of the units at the beginning that earlier demands for `Gone` stand for is kept there."""


def plan_next_pruning(
    view: View,
    chosen: Sequence[Axis],
    demand: Demand,
    criterion: Criterion,
    allocator: Allocator,
    owed: Mapping[str, float],
) -> Pruning:
    """`plan_pruning` again and again: what rounding to whole units, or to a multiple, leaves of a share of the units is
    added to the next one. What limits keep back is not.

    A share is one of the units that there would be without rounding, so that shares multiply to what they say however
    small each of them is.

    Args:
        view, chosen, demand, criterion, allocator: as for `plan_pruning`.
        owed: what earlier demands have left.

    Raises:
        ConfigError, EditError: as `plan_pruning`.
    """
    due, behind = None, owed.get(ALL, 0.0)
    share, owed = _share(demand.amount, owed)
    if share is not None:
        due = behind + share * (sum(axis.size for axis in chosen) - behind)
        demand = replace(demand, amount=max(0, round(due)))
    allocator = divider(demand, allocator)
    demand, offers, _ = scored_offers(view, chosen, demand, criterion, allocator, {})
    counts = divided(demand, chosen, divider(demand, allocator), offers)
    if due is not None:
        slack = sum(limits_of(allocator.limits, axis).multiple for axis in chosen) / 2
        owed = {**owed, ALL: min(slack, max(-slack, due - sum(counts)))}
    plans = tuple(
        criterion.removal(view, offer.axis, sorted(lowest(offer, n)))
        for offer, n in zip(offers, counts, strict=True)
        if n
    )
    return Pruning(plans, in_units(demand.amount, chosen), owed)


def _share(amount: Fixed, owed: Mapping[str, float]) -> tuple[float | None, Mapping[str, float]]:
    """The share of today's units that an amount to prune stands for, or None, and what is owed with what it will be."""
    if isinstance(amount, Gone):
        before = owed.get(GONE, 0.0)
        return amount.beyond(before), {**owed, GONE: max(before, amount.total)}
    return (amount if isinstance(amount, float) else None), owed


def _predicted(view: View, most: int, method: Method, allocator: Allocator, offer: Offer) -> Offer:
    """An offer for growth with what newborns are predicted to bring."""
    if not offer.counts:
        return replace(offer, gains=torch.zeros(0, dtype=torch.float64))
    count = predictable(offer, most, allocator)
    return replace(offer, gains=predicted_gains(method, view, offer.axis, count, type(allocator).__name__))


def proposed(view: View, axis: Axis, count: int, method: Method, made: dict[tuple[int, int], Growth]) -> Growth:
    """The method's plan for so many newborns, asked for once; one that fell short is also the plan for what it gave."""
    if (axis.index, count) not in made:
        plan = method.propose(view, axis, count)
        if plan.births > count:
            raise EditError(f"{type(method).__name__} gave {plan.births} newborns for {axis.name!r}, asked for {count}")
        made[axis.index, count] = made[axis.index, plan.births] = plan
    return made[axis.index, count]


def _explained(plan: Growth, asked: int, method: Method, most: int, multiple: int) -> Growth:
    """A plan that fell short, with a note; so many of its births the limits of the axis allow."""
    note = plan.note or f"{type(method).__name__} gave {plan.births} of {asked} units"
    rounded = f"; of these {most}, because its size is to be a multiple of {multiple}" if most < plan.births else ""
    return replace(plan, note=note + rounded)


def _noted(plans: Sequence[Growth], short: Mapping[int, Growth]) -> tuple[Growth, ...]:
    """Plans, with the notes of those that fell short on the way; without births where nothing came of them."""
    found = [replace(plan, note=short[plan.axis.index].note) if plan.axis.index in short else plan for plan in plans]
    planned = {plan.axis.index for plan in plans}
    left = [growth for index, growth in short.items() if index not in planned]
    return (*found, *(replace(g, gather=Gather.keep(g.axis.size, range(g.axis.size)), gains=()) for g in left))
