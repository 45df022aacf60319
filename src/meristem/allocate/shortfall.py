"""Why growth falls short of what was asked for before any method has been asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.division import by_axis, divided, divider, growth_offers, in_units
from meristem.allocate.limits import limits_of
from meristem.axes.map import Axis
from meristem.schedule.budget import Budget
from meristem.schedule.demand import Demand
from meristem.signals import View


def held_back(
    demand: Demand, chosen: Sequence[Axis], allocator: Allocator, offers: Sequence[Offer], given: int
) -> tuple[str, ...]:
    """How much of a demand for growth is given, and which limits keep back the rest; nothing if they keep back none.

    Args:
        demand: how many units in all, and the budget.
        chosen: all axes that may be edited.
        allocator: divides; its limits hold.
        offers: what was offered to the axes that take part, with gains if the allocator wants them.
        given: how many units limits and budget allow in all.
    """
    asked = in_units(demand.amount, chosen)
    if given >= asked or not offers:
        return ()
    amounts = by_axis(demand.amount, chosen)
    offers = [replace(o, counts=_counts(o.axis, amounts[o.axis], allocator)) for o in offers]
    free = allocator.counts(asked, offers)
    reasons = list(_limits(offers, free, allocator)) if sum(free) < asked else []
    if demand.budget is not None and given < sum(free):
        reasons.append(f"the budget is {_bounds(demand.budget)}")
    if not reasons:
        reasons.append("the model's code compares sizes, and would go another way with more")
    return (f"grow: {given} of {asked} units within limits and budget ({', '.join(reasons)})",)


class Parts(NamedTuple):
    """A demand for growth as several.

    Attributes:
        demands: one for every axis that grows, those that are read last first.
        notes: which limits kept back how much.
    """

    demands: Sequence[Demand]
    notes: tuple[str, ...]


def axis_by_axis(view: View, chosen: Sequence[Axis], demand: Demand, allocator: Allocator) -> Parts:
    """A demand for growth as one demand for every axis, for methods that grow one axis at a time.

    Args:
        view: the model today, for allocators that look at it.
        chosen, demand, allocator: as for `held_back`; the allocator must not want gains.
    """
    allocator = divider(demand, allocator)
    offers = growth_offers(view.axes, chosen, demand, allocator)
    offers = allocator.polled(view, offers, in_units(demand.amount, chosen))
    counts = divided(demand, chosen, allocator, offers)
    notes = held_back(demand, chosen, allocator, offers, sum(counts))
    return Parts(
        [Demand("grow", {o.axis.name: n}) for o, n in reversed(list(zip(offers, counts, strict=True))) if n], notes
    )


def _counts(axis: Axis, amount: int, allocator: Allocator) -> range:
    return limits_of(allocator.limits, axis).counts("grow", axis.size, amount)


def _limits(offers: Sequence[Offer], counts: Sequence[int], allocator: Allocator) -> Iterator[str]:
    """The limits that keep back growth where there is no budget."""
    limits = [limits_of(allocator.limits, offer.axis) for offer in offers]
    taken = [
        f"{offer.axis.name} may have {limit.maximum}"
        for offer, count, limit in zip(offers, counts, limits, strict=True)
        if limit.maximum is not None and offer.axis.size + count + limit.multiple > limit.maximum
    ]
    yield from taken[:3]
    if len(taken) > 3:
        yield f"and so on for {len(taken) - 3} more"
    multiples = sorted({limit.multiple for limit in limits} - {1})
    if multiples:
        yield f"sizes are multiples of {' or '.join(map(str, multiples))}"
    if not taken and not multiples:
        yield f"{type(allocator).__name__} gives no more"


def _bounds(budget: Budget) -> str:
    found = {field.name: getattr(budget, field.name) for field in fields(budget)}
    return " and ".join(f"{bound:,g} {name}" for name, bound in found.items() if bound is not None)
