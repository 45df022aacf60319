"""Which axes take part in an edit, and how a demand is divided over them within limits and budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.custom import Custom
from meristem.allocate.limits import limits_of
from meristem.allocate.nested import Nested
from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.prune import Gone
from meristem.schedule.demand import Below, Demand, Fixed, Rate


def in_units(amount: Fixed, chosen: Sequence[Axis]) -> int:
    """An amount as a number of units in all; a fraction is one of all units of the chosen axes.

    What a criterion or what went before decides (`Below`, `Rate`, `Gone`) must be in numbers already.
    """
    if isinstance(amount, Mapping):
        return sum(amount.values())
    if isinstance(amount, (Below, Rate, Gone)):
        raise ConfigError(f"{amount!r} has no meaning before units have been scored")
    return amount if isinstance(amount, int) else round(amount * sum(axis.size for axis in chosen))


def by_axis(amount: Fixed, chosen: Sequence[Axis]) -> dict[Axis, int]:
    """The axes that an amount is for, and how many of its units each could be given at most.

    Raises:
        ConfigError: the amount names an axis that was not chosen.
    """
    if not isinstance(amount, Mapping):
        return dict.fromkeys(chosen, in_units(amount, chosen))
    names = [axis.name for axis in chosen]
    unknown = [name for name in amount if name not in names]
    if unknown:
        raise ConfigError(f"an amount is asked for {unknown[0]!r}, which may not be edited; chosen: {', '.join(names)}")
    return {axis: amount[axis.name] for axis in chosen if amount.get(axis.name)}


def divider(demand: Demand, allocator: Allocator) -> Allocator:
    """What divides a demand: the allocator, or nothing but its limits where the amount says what each axis gets."""
    allocator, amount = allocator.for_action(demand.action), demand.amount
    if not isinstance(amount, Mapping):
        return allocator
    return Custom(lambda offers, total: [amount[offer.axis.name] for offer in offers], limits=allocator.limits)


def at_most(axes: AxisMap, chosen: Sequence[Axis], demand: Demand, allocator: Allocator) -> dict[Axis, int]:
    """For how many newborns a growth method may be asked on each axis, before anything has been predicted.

    Args:
        axes: today's map.
        chosen: the axes that may grow.
        demand: how many units, and the budget not to exceed.
        allocator: divides the amount over the axes.
    """
    allocator = divider(demand, allocator)
    amounts = by_axis(demand.amount, chosen)
    offers = growth_offers(axes, chosen, demand, allocator)
    return {offer.axis: predictable(offer, amounts[offer.axis], allocator) for offer in offers if offer.counts}


def replaceable(chosen: Sequence[Axis], demand: Demand) -> dict[Axis, int]:
    """For how many newborns a growth method may be asked on each axis by a demand to replace, before units are scored.

    Args:
        chosen: the axes that may be edited.
        demand: how many units.
    """
    if isinstance(demand.amount, Below):
        return {axis: axis.size for axis in chosen}
    if isinstance(demand.amount, Rate):
        return {axis: int(demand.amount.share * axis.size) + 1 for axis in chosen}
    return {axis: min(axis.size, most) for axis, most in by_axis(demand.amount, chosen).items() if most}


def predictable(offer: Offer, most: int, allocator: Allocator) -> int:
    """For how many newborns a method is asked on an axis: to propose them, or to predict their gains.

    A bottleneck is no smaller for the limits of an axis, so gains are predicted for the whole amount.
    """
    return max(offer.most, most) if allocator.wants_gains else offer.most


def growth_offers(axes: AxisMap, chosen: Sequence[Axis], demand: Demand, allocator: Allocator) -> list[Offer]:
    """What can be given to each axis, before anything has been predicted.

    Where shares do not depend on gains or votes, an axis is offered twice its share: so it may take over what a method
    does not give on another one, and yet statistics need not be recorded for the whole amount on every axis.
    """
    offers = [
        Offer(axis, "grow", limits_of(allocator.limits, axis).counts("grow", axis.size, most), axes)
        for axis, most in by_axis(demand.amount, chosen).items()
    ]
    if allocator.wants_gains or allocator.polls:
        return offers
    counts = divided(demand, chosen, allocator, offers)
    return [offer.nearly(2 * count) for offer, count in zip(offers, counts, strict=True)]


def divided(demand: Demand, chosen: Sequence[Axis], allocator: Allocator, offers: Sequence[Offer]) -> tuple[int, ...]:
    """How many units each offered axis gains or loses, within a budget.

    Without a budget what was asked for, as nearly as limits allow: a `multiple` may round up to half of it more (see
    `Allocator.counts`). Of growth the largest amount that keeps the budget, by bisection; if a multiple makes the cost
    fall somewhere as the amount rises, a larger one may keep it, too. Of pruning the smallest removal that meets the
    budget, of all in the order of the ranking, each of which contains the ones before (`Nested`); what was asked for if
    that removes fewer units, or if none meets it. Then fewer where the model's code compares sizes and would go another
    way with these.

    Args:
        demand: how many units in all, and the budget.
        chosen: all axes that may be edited.
        allocator: divides.
        offers: what can be done to the axes that take part.
    """
    counts = _within(demand, chosen, allocator, offers)
    return _aside(demand, allocator, offers, counts) if offers and demand.action != "replace" else counts


def _aside(demand: Demand, allocator: Allocator, offers: Sequence[Offer], counts: Sequence[int]) -> tuple[int, ...]:
    """One unit, or multiple, less at a time of an axis with whose size the code would go another way; where no smaller
    amount helps, the edit is refused."""
    axes, found = offers[0].axes, list(counts)
    sign = 1 if demand.action == "grow" else -1
    while True:
        sizes = list(axes.sizes)
        for offer, count in zip(offers, found, strict=True):
            sizes[offer.axis.index] += sign * count
        guard = axes.turned(sizes)
        compared = [i for i, o in enumerate(offers) if guard is not None and o.axis.index in guard.axes and found[i]]
        if not compared:
            return tuple(found)
        most = max(compared, key=found.__getitem__)
        found[most] = max(0, found[most] - limits_of(allocator.limits, offers[most].axis).multiple)


def _within(demand: Demand, chosen: Sequence[Axis], allocator: Allocator, offers: Sequence[Offer]) -> tuple[int, ...]:
    """As `divided`, before the code is asked."""
    total = in_units(demand.amount, chosen)
    budget = demand.budget
    if budget is None or not offers or demand.action == "replace":
        return allocator.counts(total, offers)
    axes, growing = offers[0].axes, demand.action == "grow"

    def met(counts: Sequence[int]) -> bool:
        sizes = list(axes.sizes)
        for offer, count in zip(offers, counts, strict=True):
            sizes[offer.axis.index] += count if growing else -count
        return budget.met(axes, sizes, chosen)

    if growing:
        beyond = bisect_left(range(total + 1), True, key=lambda amount: not met(allocator.counts(amount, offers)))
        return allocator.counts(max(0, beyond - 1), offers)
    asked = allocator.counts(total, offers)
    if met((0,) * len(offers)):
        return (0,) * len(offers)
    found = Nested(allocator, offers).smallest(total, met)
    return asked if found is None or sum(found) > sum(asked) else found
