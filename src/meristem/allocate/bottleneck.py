"""Bottleneck: new units go where expressivity is missing most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.ranked import gains_of


@dataclass(frozen=True)
class Bottleneck(Allocator):
    """All new units go to the axis with the largest predicted decrease of the loss; the next largest takes the rest.

    The decrease of an axis is the sum of the gains of its newborns if it got the whole amount: for TINY (Verbockhaven,
    Rudkiewicz, Chevallier, Charpiat, TMLR 2024, arXiv 2405.19816) the part of its expressivity bottleneck that these
    remove. The authors' library grows the one axis with the largest first-order improvement; here an axis that reaches
    its limit passes the rest on. For growth only.

    Raises:
        ConfigError: the growth method predicts no gains, or asked to divide pruning.

    Fails: axes that feed each other have bottlenecks in common, so a large amount overshoots on the one that is taken.
    """

    @property
    def wants_gains(self) -> bool:
        return True

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        sizes = [float(gains_of(offer, "Bottleneck").sum()) for offer in offers]
        shares = [0.0] * len(offers)
        rest = total
        for i in sorted(range(len(offers)), key=lambda i: -sizes[i]):
            shares[i] = min(rest, offers[i].most)
            rest -= int(shares[i])
        return shares
