"""What an allocator is: a division of a number of units over axes; rounding and limits are the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from meristem.allocate.limits import Limits, LimitsByName
from meristem.axes.map import Axis
from meristem.schedule.schedule import Action


@dataclass(frozen=True)
class Offer:
    """What can be done to one axis.

    Attributes:
        axis: the axis.
        action: "grow" or "prune".
        counts: the numbers of units, ascending, that it may gain or lose.
        scores: for pruning the worth of every unit, float64, shape (axis.size,) on the CPU, `inf` where it must stay;
            None for growth.
    """

    axis: Axis
    action: Action
    counts: range
    scores: Tensor | None = field(default=None, repr=False, compare=False)

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
        """How much of `total` each axis should get; sums to `total`. Limits are applied after."""

    def limits_for(self, action: Action) -> LimitsByName:
        """The limits that hold for an action."""
        return self.limits

    def counts(self, total: int, offers: Sequence[Offer]) -> tuple[int, ...]:
        """Whole numbers of units for each axis, within its limits, that add up to `total` as nearly as these allow."""
        return settle(total, self.shares(total, offers), offers) if offers and total else (0,) * len(offers)


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
