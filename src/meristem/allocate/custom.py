"""Custom: divided by the user's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.limits import Limits, LimitsByName
from meristem.errors import ConfigError


@dataclass(frozen=True)
class Custom(Allocator):
    """Every axis gets its share by a function of yours, e.g. by the root of its size:

        Custom(lambda offers, total: [offer.axis.size ** 0.5 for offer in offers])

    What the function says is taken at its word: no axes are linked (see `Allocator.links`).

    Attributes:
        function: is given one `Offer` per axis and the number of units in all; returns a number >= 0 per axis. The
            total is divided in proportion; so numbers that add up to it are taken as they are, to rounding and limits.
        gains: whether the function looks at `offer.gains`; the growth method must predict them then.

    Raises:
        ConfigError: the function returned something else; or gains are wanted of a method that predicts none.
    """

    limits: LimitsByName = field(default_factory=Limits, kw_only=True)
    function: Callable[[Sequence[Offer], int], Sequence[float]]
    gains: bool = field(default=False, kw_only=True)

    @property
    def wants_gains(self) -> bool:
        return self.gains

    def links(self, offers: Sequence[Offer]) -> list[tuple[int, int]]:
        return []

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        found = [float(share) for share in self.function(offers, total)]
        given = sum(found)
        if len(found) != len(offers) or not all(share >= 0 for share in found) or not 0 < given < math.inf:
            raise ConfigError(
                f"Custom: the function must return {len(offers)} numbers >= 0, one per axis, that are not all 0; got "
                f"{found}"
            )
        return found if given == total else [total * share / given for share in found]
