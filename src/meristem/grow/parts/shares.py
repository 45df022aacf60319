"""How copies of one unit share what it did."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(sources: Tensor, ratio: float = 1.0) -> Tensor:
    """The share of each copy in what its source did; the shares of all copies of one source add up to 1.

    Args:
        sources: for each new index the old one it copies, -1 for none; int64, shape (new length,).
        ratio: the share of each copy over that of the copy before it. 1: all are equal.

    Returns:
        float64, shape (new length,); 1 where there is no source.
    """
    copies = sources >= 0
    place = torch.zeros(len(sources), dtype=torch.float64)
    place[copies] = _place_among_equals(sources[copies]).double()
    parts = ratio**place
    known = sources.clamp(min=0)
    totals = torch.zeros(int(known.max()) + 1, dtype=torch.float64).index_add(0, sources[copies], parts[copies])
    return torch.where(copies, parts / totals[known], 1.0)


def _place_among_equals(numbers: Tensor) -> Tensor:
    """How many equal numbers stand before each one."""
    order = numbers.argsort(stable=True)
    counts = torch.bincount(numbers)
    first = counts.cumsum(0) - counts
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - first[numbers[order]]
    return place
