"""Turnover: units die and newborns take their places; where both are as many, no tensor changes its shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator
from meristem.allocate.division import divided, divider
from meristem.allocate.scored import lowest, scored_offers
from meristem.axes.expression import NEWBORN, gather_index, leaves
from meristem.axes.map import Axis, TensorLayout
from meristem.edit import Gather, Newborns, Slice
from meristem.edit.compute import widened
from meristem.errors import EditError
from meristem.grow import Growth, Method
from meristem.grow.parts.counterparts import bare
from meristem.prune import Criterion, Removal
from meristem.schedule.demand import Demand
from meristem.signals import View


@dataclass(frozen=True)
class Turnover:
    """A plan: units of one axis die, and newborns take their places.

    Newborns for which there is no place stand behind the other units; places for which there is no newborn close.

    Attributes:
        growth: what is born, as a growth method proposed it: behind the other units.
        removal: who dies.
        sizes: the size of every axis, by number.
    """

    growth: Growth
    removal: Removal
    sizes: Mapping[int, int]

    @property
    def axis(self) -> Axis:
        """The axis."""
        return self.removal.axis

    @property
    def births(self) -> int:
        """How many units are newborn."""
        return self.growth.births

    @property
    def note(self) -> str | None:
        """Why there are fewer newborns than were asked for, or None if there are not."""
        return self.growth.note

    @property
    def inexact(self) -> tuple[str, ...]:
        """Why the newborns change the function; the deaths always may."""
        return self.growth.inexact

    @cached_property
    def gather(self) -> Gather:
        """All units in their places."""
        filled = set(self.removal.units[: self.births])
        closed = set(self.removal.units[self.births :])
        stay = [NEWBORN if unit in filled else unit for unit in range(self.axis.size) if unit not in closed]
        sources = (*stay, *(NEWBORN,) * (self.births - len(filled)))
        return Gather(sources, tuple(source == NEWBORN for source in sources))

    @cached_property
    def start(self) -> Newborns:
        """What newborns start from, and what else happens to the others."""
        return _InPlace(self)


@dataclass(frozen=True, eq=False)
class _InPlace(Newborns):
    """What a growth and a removal do, in one gather."""

    plan: Turnover

    def values(self, s: Slice) -> Tensor:
        return self.plan.growth.start.values(s)

    def shift(self, layout: TensorLayout) -> Tensor | None:
        """What both move, where units are after the turnover."""
        found = self._relocated(self.plan.growth.start.shift(layout), layout, self._grown)
        start = self.plan.removal.start
        more = None if start is None else self._relocated(start.shift(layout), layout, self._kept)
        if found is None or more is None:
            return more if found is None else found
        return found + more.to(found)

    def weight_factor(self, s: Slice) -> Tensor | None:
        """What makes up for a size that is another one."""
        return self.plan.growth.start.weight_factor(s)

    def gradient_factor(self, s: Slice) -> Tensor | None:
        return self.plan.growth.start.gradient_factor(s)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        return self.plan.inexact

    def __repr__(self) -> str:
        return repr(self.plan.growth.start)

    @cached_property
    def _grown(self) -> tuple[Tensor, int]:
        """For each unit where it is after the growth alone, and how many there are then."""
        index, size = self.plan.gather.index.clone(), self.plan.axis.size
        index[self.plan.gather.newborn_mask] = size + torch.arange(self.plan.births)
        return index, size + self.plan.births

    @cached_property
    def _kept(self) -> tuple[Tensor, int]:
        """For each unit where it is after the removal alone, -1 for the dead, and how many there are then."""
        stays = ~self.plan.gather.newborn_mask
        return torch.where(stays, stays.cumsum(0) - 1, NEWBORN), int(stays.sum())

    def _relocated(self, entries: Tensor | None, layout: TensorLayout, place: tuple[Tensor, int]) -> Tensor | None:
        """Entries in the shape after one half of the turnover, in that after all of it."""
        index, size = place
        number = self.plan.axis.index
        for dim, expression in enumerate(layout.dims):
            if entries is not None and number in leaves(expression):
                sizes = {**self.plan.sizes, number: size}
                entries = widened(entries, dim, gather_index(expression, {number: index}, sizes))
        return entries


def plan_turnover(
    view: View,
    chosen: Sequence[Axis],
    demand: Demand,
    method: Method,
    criterion: Criterion,
    allocator: Allocator,
    owed: Mapping[str, float],
) -> tuple[tuple[Turnover, ...], Mapping[str, float]]:
    """The turnover that a demand asks for: the lowest-scoring units die, and the method's newborns take their places.

    Args:
        view: the model today, with the statistics that method and criterion need.
        chosen: the axes that may be edited; method and criterion must be defined for each.
        demand: how many units.
        method: makes the newborns. Where it makes fewer than are asked for, fewer units die.
        criterion: scores the units.
        allocator: divides the amount over the axes.
        owed: by axis name, the part of a unit that earlier demands for a `Rate` have left.

    Returns:
        one plan for every axis on which units die, and what is owed afterwards.

    Raises:
        ConfigError: the demand names another axis.
        EditError: the criterion gave scores that cannot be ranked; or newborns of the method cannot take the places of
            others, because they copy units, or because it changes incumbents for a larger size of the axis.
    """
    allocator = divider(demand, allocator)
    demand, offers, owed = scored_offers(view, chosen, demand, criterion, allocator, owed)
    counts = divided(demand, chosen, divider(demand, allocator), offers)
    dying = {o.axis.index: lowest(o, n) for o, n in zip(offers, counts, strict=True) if n}
    grown = [_newborns(view, view.axes.axes[index], len(units), method) for index, units in dying.items()]
    plans = []
    for growth in method.settled(view, [growth for growth in grown if growth.births]):
        units = sorted(dying[growth.axis.index][: growth.births])
        removal = criterion.removal(view, growth.axis, units)
        plans.append(Turnover(growth, removal, dict(enumerate(view.axes.sizes))))
    return tuple(plans), owed


def takes_places(growth: Growth) -> bool:
    """Whether newborns could take the places of units that die: they copy nobody, and incumbents stay as they are."""
    return _appended(growth) and type(bare(growth.start)).weight_factor is Newborns.weight_factor


def _appended(growth: Growth) -> bool:
    return growth.births == 0 or growth.gather == Gather.grow(growth.axis.size, growth.births)


def _newborns(view: View, axis: Axis, count: int, method: Method) -> Growth:
    """The method's plan for newborns that take the places of others."""
    growth = method.propose(view, axis, count)
    name = type(method).__name__
    if growth.births > count:
        raise EditError(f"{name} gave {growth.births} newborns for {axis.name!r}, asked for {count}")
    if not takes_places(growth):
        what = "rescales or divides incumbents for a larger size" if _appended(growth) else "copies units"
        raise EditError(
            f"{name} {what}, so that its newborns cannot take the places of units of {axis.name!r} that die; methods "
            "whose newborns copy nobody can, such as Fresh, ZeroFanOut, Random, Paired, GradMax and TINY"
        )
    if growth.births < count and growth.note is None:
        return replace(growth, note=f"{name} gave {growth.births} of {count} units")
    return growth
