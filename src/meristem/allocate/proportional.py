"""Proportional: every axis the same fraction of its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.allocate.allocator import Allocator, Offer


@dataclass(frozen=True)
class Proportional(Allocator):
    """Every chosen axis gains or loses in proportion to its size; `grow=0.1` makes each axis a tenth larger."""

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        size = sum(offer.axis.size for offer in offers)
        return [total * offer.axis.size / size for offer in offers]
