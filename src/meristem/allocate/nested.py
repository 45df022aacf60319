"""The removals of a ranking, each of which contains the ones before, and the smallest that meets a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from meristem.allocate.allocator import Allocator, Joint, Offer


@dataclass(frozen=True)
class Nested:
    """An allocator's removals for a rising amount, every axis rounded by itself.

    What `Allocator.counts` gives for a larger amount need not contain what it gives for a smaller one: to add up to the
    amount, what an axis cannot lose because of a `multiple` is taken from other axes, and the model may cost more with
    more units gone. Here no size rises with the amount, so no cost does.

    Attributes:
        allocator: divides an amount; no share may fall where the amount rises (only a `Custom` can want it so).
        offers: what can be removed from each axis.
    """

    allocator: Allocator
    offers: Sequence[Offer]

    def smallest(self, amount: int, met: Callable[[Sequence[int]], bool]) -> tuple[int, ...] | None:
        """The removal for the smallest amount that meets a condition, less whatever of it can stay.

        That amount is found by bisection. Then axes get back what they lost last, one allowed number of units at a
        time, that axis first which loses most beyond its share (in such numbers), as long as the condition is still
        met. So in the end it is missed if any axis gets back anything; other combinations may come nearer to it. About
        `log2(amount)` divisions, and a few trials for each axis.

        Args:
            amount: where to begin to look; it is doubled until the condition is met or nothing more can go.
            met: whether counts for the offers meet it; if they do, larger ones must, too.

        Returns:
            counts for the offers, or None if even the largest removal does not meet it.
        """
        while not met(self.removal(amount)):
            if self.removal(2 * amount) == self.removal(amount):
                return None
            amount *= 2
        amount = bisect_left(range(amount), True, key=lambda n: met(self.removal(n)))
        joint, wanted = self._joint, self._wanted(amount)
        counts = self._nearest(wanted)
        losing = {group for group, count in enumerate(counts) if count}
        while losing:
            group = max(losing, key=lambda g: ((counts[g] - wanted[g]) / joint.together[g].counts.step, -g))
            lost, counts[group] = counts[group], joint.together[group].at_most(counts[group] - 1)
            if not met(joint.apart(counts)):
                counts[group] = lost
                losing.remove(group)
            elif not counts[group]:
                losing.remove(group)
        return joint.apart(counts)

    def removal(self, amount: int) -> tuple[int, ...]:
        """For each offer the allowed count that is nearest to its share of an amount, whatever they add up to."""
        return self._joint.apart(self._nearest(self._wanted(amount)))

    def _nearest(self, wanted: Sequence[float]) -> list[int]:
        return [offer.nearest(share) for offer, share in zip(self._joint.together, wanted, strict=True)]

    def _wanted(self, amount: int) -> list[float]:
        joint = self._joint
        return joint.wanted(self.allocator.shares(amount, joint.capped) if amount > 0 else [0.0] * len(self.offers))

    @cached_property
    def _joint(self) -> Joint:
        return Joint.of(self.offers, self.allocator.links(self.offers))
