"""Sums over positions of products of two maps, for all pairs of taps at once, without ever unfolding a map.

The product of what tap b of the left map sees with what tap a of the right map sees depends on the distance of the two
taps alone, except that near the borders some taps see nothing. So positions are cut into segments on which the same
left taps count (the inside, and a few lines along each border); for each segment there is one product per distance,
which together are the weight gradient of a convolution, and they are added up for the pairs of taps that count there.
For a k x k kernel with itself these are (2k - 1)^2 products of maps instead of k^4 products of unfolded copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from meristem.signals.precision import wide

_ENTRIES = {"cpu": 2**20}
"""How many entries of a map are worked on at once: what stays in a CPU's cache; elsewhere 2 ** 26."""


@dataclass(frozen=True)
class Lags:
    """Along one spatial dimension: which positions of the left map count for each left tap, and how far taps are apart.

    For left tap b and right tap a, position p of the left map meets position `p * step + first + lag * spacing` of the
    right map, `lag = left[b] + right[a]`; outside of the right map are zeros. Pairs with a negative lag are left out.

    Attributes:
        counted: for each left tap the first position that counts and the one after the last.
        left, right: the share of each tap in the lag.
        step, first, spacing: as above.
    """

    counted: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    step: int = 1
    first: int = 0
    spacing: int = 1

    @property
    def count(self) -> int:
        """How many lags there are from zero on."""
        return max(self.left) + max(self.right) + 1

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Runs of positions on which the same left taps count."""
        borders = sorted({border for low, high in self.counted if low < high for border in (low, high)})
        return list(pairwise(borders))

    def counts(self, tap: int, segment: tuple[int, int]) -> bool:
        """Whether a left tap counts on a segment."""
        low, high = self.counted[tap]
        return low <= segment[0] and segment[1] <= high


def correlate(left: Tensor, right: Tensor, lags: Sequence[Lags], groups: int = 1) -> Tensor:
    """Sums over samples and positions of products of two maps, for each pair of taps.

    Args:
        left: shape (batch, outs, *spatial).
        right: shape (batch, ins, *other spatial).
        lags: one for each spatial dimension.
        groups: into how many blocks outs and ins are cut; only those of one block meet.

    Returns:
        shape (outs, ins / groups, left taps, right taps, left taps, right taps, ...) with one pair for each spatial
        dimension, float32 or better.
    """
    shape = (left.shape[1], right.shape[1] // groups)

    def build(dim: int, window: tuple[tuple[int, int], ...]) -> Tensor:
        """Lags along dimensions before `dim`, pairs of taps from there on, over the left map's window."""
        if dim == len(lags):
            return _by_lag(left, right, lags, window, groups)
        lag, at = lags[dim], 2 + dim
        rest = tuple(length for later in lags[dim + 1 :] for length in (len(later.left), len(later.right)))
        total = torch.zeros(
            (*shape, *(lag.count for lag in lags[:dim]), len(lag.left), len(lag.right), *rest),
            dtype=wide(left, right),
            device=left.device,
        )
        for segment in lag.segments:
            inner = build(dim + 1, (*window, segment))
            for b, first in enumerate(lag.left):
                taps = [a for a, further in enumerate(lag.right) if first + further >= 0]
                if lag.counts(b, segment) and taps:
                    found = torch.tensor([first + lag.right[a] for a in taps], device=left.device)
                    kept = torch.tensor(taps, device=left.device)
                    total.select(at, b).index_add_(at, kept, inner.index_select(at, found))
        return total

    return build(0, ())


def split(*maps: Tensor, entries: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """The maps cut alike into blocks of samples, small enough to work on at once, in full precision.

    Args:
        *maps: each of shape (batch, ...).
        entries: how many entries per sample are made on the way, if more than the maps have.
    """
    dtype = wide(*maps)
    entries = max(entries, *(math.prod(m.shape[1:]) for m in maps), 1)
    size = max(1, _ENTRIES.get(maps[0].device.type, 2**26) // entries)
    for blocks in zip(*(m.split(size) for m in maps), strict=True):
        yield tuple(block.to(dtype) for block in blocks)


def _by_lag(
    left: Tensor, right: Tensor, lags: Sequence[Lags], window: Sequence[tuple[int, int]], groups: int
) -> Tensor:
    """The products over a window of the left map for each lag: shape (outs, ins / groups, *lags)."""
    total = torch.zeros(
        (left.shape[1], right.shape[1] // groups, *(lag.count for lag in lags)),
        dtype=wide(left, right),
        device=left.device,
    )
    padding, odd = [], []
    for dim, (lag, (low, high)) in enumerate(zip(lags, window, strict=True), start=2):
        start = low * lag.step + lag.first
        stop = (high - 1) * lag.step + lag.first + (lag.count - 1) * lag.spacing + 1
        size = right.shape[dim]
        before, after = max(0, -start), max(0, stop - size)
        if before >= stop - start or after >= stop - start:
            return total  # all of it is outside
        left = left.narrow(dim, low, high - low)
        right = right.narrow(dim, start + before, stop - start - before - after)
        padding.append(min(before, after))
        odd = [before - padding[-1], after - padding[-1], *odd]
    strides, spacings, zeros = [lag.step for lag in lags], [lag.spacing for lag in lags], [0] * len(lags)
    for a, b in split(left, right):
        b = functional.pad(b, odd) if any(odd) else b
        total += torch.ops.aten.convolution_backward(
            a, b, total, None, strides, padding, spacings, False, zeros, groups, [False, True, False]
        )[1]
    return total
