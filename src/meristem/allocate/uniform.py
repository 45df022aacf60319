"""Uniform: every axis the same number of units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.allocate.allocator import Allocator, Offer


@dataclass(frozen=True)
class Uniform(Allocator):
    """Every chosen axis gains or loses the same number of units, whatever its size."""

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        return [total / len(offers)] * len(offers)
