"""What an allocator is: a division of a number of units over axes; rounding and limits are the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from torch import Tensor

from meristem.allocate.in_step import in_step
from meristem.allocate.limits import Limits, LimitsByName
from meristem.allocate.linked import common, linked
from meristem.axes.map import Axis, AxisMap
from meristem.schedule.demand import Action
from meristem.signals import View

Per: TypeAlias = Literal["unit", "parameter", "flop"]
"""What a unit's worth is held against: nothing, its parameters, or its floating-point operations in a forward pass."""


@dataclass(frozen=True)
class Offer:
    """What can be done to one axis.

    Attributes:
        axis: the axis.
        action: "grow", "prune" or "replace".
        counts: the numbers of units, ascending, that it may gain, lose or replace.
        axes: the map, for what units cost.
        scores: the worth of every unit, float64, shape (axis.size,) on the CPU, `inf` where it must stay; None for
            growth.
        gains: for growth the predicted decrease of the loss by each newborn, float64 on the CPU, descending; for as
            many as the method predicts of all units that are asked for, also where the axis has no room for them. Or
            what the allocator found out itself (see `Allocator.polled`). None if it wants neither.
        comparable: whether the scores of different axes can be compared as they are.
    """

    axis: Axis
    action: Action
    counts: range
    axes: AxisMap = field(repr=False, compare=False)
    scores: Tensor | None = field(default=None, repr=False, compare=False)
    gains: Tensor | None = field(default=None, repr=False, compare=False)
    comparable: bool = field(default=False, repr=False, compare=False)

    @property
    def most(self) -> int:
        """The largest number of units that the axis may gain or lose."""
        return self.counts[-1] if self.counts else 0

    def at_most(self, count: float) -> int:
        """The largest allowed number of units that is not above `count`."""
        found = bisect_right(self.counts, count)
        return self.counts[found - 1] if found else 0

    def after(self, count: int) -> int | None:
        """The next larger allowed number of units, or None."""
        found = bisect_right(self.counts, count)
        return self.counts[found] if found < len(self.counts) else None

    def nearest(self, count: float) -> int:
        """The allowed number of units that is nearest to `count`, or 0; of two the smaller."""
        below = self.at_most(count)
        above = self.after(below)
        return below if above is None or above - count >= count - below else above

    def up_to(self, count: int) -> Offer:
        """This offer without numbers of units above `count`."""
        return replace(self, counts=self.counts[: bisect_right(self.counts, count)])

    def nearly(self, count: int) -> Offer:
        """This offer up to the allowed number that is `count` (at least 1) or the next above."""
        ceiling = self.after(max(count, 1) - 1)
        return self if ceiling is None else self.up_to(ceiling)

    def times(self, number: int) -> Offer:
        """So many axes that allow what this one does, as one offer."""
        one = self.counts
        return replace(self, counts=range(one.start * number, self.most * number + 1, one.step * number))

    def cost(self, per: Per) -> int:
        """What one more unit of the axis costs today: 1, or its parameters (tied ones once), or its FLOPs."""
        if per == "unit":
            return 1
        measure = self.axes.parameter_count if per == "parameter" else self.axes.flops
        sizes = list(self.axes.sizes)
        sizes[self.axis.index] += 1
        return measure(sizes) - measure()


@dataclass(frozen=True)
class Allocator(ABC):
    """Divides a number of units over axes. Allocators are frozen dataclasses of their settings.

    Attributes:
        limits: minimum, maximum and multiple of the size of each axis; one `Limits` for all, or a mapping from glob
            patterns of axis names, e.g. `{"stem": Limits(minimum=16), "*": Limits(multiple=8)}`.
    """

    limits: LimitsByName = field(default_factory=Limits)

    @abstractmethod
    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        """How much of `total` each axis should get; sums to `total`, or to less where no axis can take more. Limits are
        applied after."""

    @property
    def wants_gains(self) -> bool:
        """Whether growth is divided by `Offer.gains`; they are predicted only if so. Default: no."""
        return False

    @property
    def polls(self) -> bool:
        """Whether it looks at the model before it divides growth (see `polled`). Default: no."""
        return False

    def polled(self, view: View, offers: Sequence[Offer], total: int) -> Sequence[Offer]:
        """The same offers for growth, with `gains` as the allocator itself sees them. Default: as they are.

        Args:
            view: the model today.
            offers: what can be given to each axis.
            total: how many units are asked for in all.
        """
        return offers

    def for_action(self, action: Action) -> Allocator:
        """The allocator that divides growth, or pruning and replacement: this one."""
        return self

    def links(self, offers: Sequence[Offer]) -> list[tuple[int, int]]:
        """Pairs of offers, by number, that get the same number of units. Default: those that keep the lengths the same
        that a fast kernel wants to be the same (see `AxisMap.alike`); none for replacement."""
        places = {offer.axis.index: number for number, offer in enumerate(offers) if offer.action != "replace"}
        pairs = in_step(offers[0].axes) if places else ()
        return [(places[one], places[other]) for one, other in pairs if one in places and other in places]

    def counts(self, total: int, offers: Sequence[Offer]) -> tuple[int, ...]:
        """Whole numbers of units for each axis, within its limits, that add up to `total` as nearly as these allow.

        What is given to linked axes is divided evenly among them; what one of them cannot take, none of them gets.
        """
        if not offers or not total:
            return (0,) * len(offers)
        joint = Joint.of(offers, self.links(offers))
        shares = self.shares(total, joint.capped)
        return joint.apart(settle(total, joint.wanted(shares), joint.together))


@dataclass(frozen=True)
class Joint:
    """Offers of which linked ones are taken as one.

    Attributes:
        groups: the offers, by number, that get the same number of units.
        capped: the offers, with the numbers of units that all of their group allow.
        together: one offer for each group.
    """

    groups: Sequence[Sequence[int]]
    capped: Sequence[Offer]
    together: Sequence[Offer]

    @classmethod
    def of(cls, offers: Sequence[Offer], links: Sequence[tuple[int, int]]) -> Joint:
        """Offers, and pairs of them by number that are linked."""
        groups, capped = linked(len(offers), links), list(offers)
        for group in groups:
            counts = common([offers[number].counts for number in group])
            for number in group:
                capped[number] = replace(offers[number], counts=counts)
        return cls(groups, capped, [capped[group[0]].times(len(group)) for group in groups])

    def wanted(self, shares: Sequence[float]) -> list[float]:
        """What each group should get, by what each offer should."""
        return [sum(shares[number] for number in group) for group in self.groups]

    def apart(self, counts: Sequence[int]) -> tuple[int, ...]:
        """What each offer gets, by what each group does."""
        found = [0] * len(self.capped)
        for group, count in zip(self.groups, counts, strict=True):
            for number in group:
                found[number] = count // len(group)
        return tuple(found)


def settle(total: int, shares: Sequence[float], offers: Sequence[Offer]) -> tuple[int, ...]:
    """The allowed counts nearest to the shares (largest remainder first; what an axis cannot take goes to the others).

    The sum misses `total` by at most half of a multiple, unless no axis can take more.
    """
    counts = [offer.at_most(share) for offer, share in zip(offers, shares, strict=True)]
    rest = total - sum(counts)
    while rest > 0:
        steps = [(offer.after(count) or 0) - count for offer, count in zip(offers, counts, strict=True)]
        fitting = [i for i, step in enumerate(steps) if 0 < step <= 2 * rest]
        if not fitting:
            break
        chosen = max(fitting, key=lambda i: shares[i] - counts[i])
        counts[chosen] += steps[chosen]
        rest -= steps[chosen]
    return tuple(counts)
