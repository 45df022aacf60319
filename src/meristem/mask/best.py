"""The best of many numbers, exactly, and without sorting them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy
import torch
from torch import Tensor

from meristem.errors import ConfigError


def top(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """The `count` largest scores, exactly as many: of equal ones those that come first.

    Args:
        scores: of any shape; -inf for what may not be chosen.
        count: from 0 to the number of scores that are not -inf.
        among: which may be chosen at all, bool, of the same shape; None (default) for all of them.

    Returns:
        bool, shape of `scores`.

    Raises:
        ConfigError: a score is NaN, or fewer can be chosen than asked for.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.reshape(-1)
    parts = pieces(flat)
    views = list(zip(parts, [None] * len(parts) if among is None else pieces(among.reshape(-1)), strict=True))
    least = edge(views, count)
    found = torch.empty_like(flat, dtype=torch.bool)
    targets = list(zip(views, pieces(found), strict=True))
    for view, out in targets:
        out.copy_(_where(view, torch.gt, least))
    missing = count - int(found.count_nonzero())
    for view, out in targets:  # of those that are equal to the last one chosen the first
        if missing <= 0:
            break
        places = _where(view, torch.eq, least).nonzero().flatten()[:missing]
        out.index_fill_(0, places, True)
        missing -= len(places)
    return found.reshape(scores.shape)


PIECE = 2**16
"""So many numbers are looked at at once on the CPU: what is read several times stays in its cache."""

SAMPLE = 2**14
"""So many scores are looked at to find out between which bounds the one that is looked for lies."""

View: TypeAlias = "tuple[Tensor, Tensor | None]"
"""A part of some flat scores, and which of them may be chosen; None for all."""


def pieces(flat: Tensor) -> Sequence[Tensor]:
    """A flat tensor in parts that fit into the cache; on other devices than the CPU in one part."""
    return flat.split(PIECE) if flat.is_cpu else (flat,)


def _where(view: View, compared: Callable[[Tensor, Tensor], Tensor], bound: Tensor) -> Tensor:
    """For which of the scores that may be chosen a comparison with a bound holds."""
    part, among = view
    found = compared(part, bound.to(part.device))
    return found if among is None else found.logical_and_(among)


def _numbers(views: Sequence[View], stride: int = 1) -> Tensor:
    """The scores that may be chosen, or about one of so many of them."""
    found = []
    for part, among in views:
        start = part.numel() % stride // 2
        thin = part[start::stride]
        found.append((thin if among is None else thin[among[start::stride]]).to(views[0][0].device))
    return torch.cat(found)


def edge(views: Sequence[View], count: int) -> Tensor:
    """The `count`-th largest of all scores, exactly; a tensor of no dimensions.

    Sorting many takes long: bounds that a sample suggests leave few, and counting tells whether it lies between them.

    Args:
        views: of the same dtype; the first one's device is that of the result.
        count: from 1 to the number of scores that may be chosen and are not -inf.

    Raises:
        ConfigError: a score is NaN, or fewer can be chosen than asked for.
    """
    total = sum(part.numel() if among is None else int(among.count_nonzero()) for part, among in views)
    if count > total:
        raise ConfigError(f"{count} of {total} weights cannot be chosen: there are not so many")
    least = _narrowed(views, count, total) if total > 8 * SAMPLE else None
    if least is None:
        everything = _numbers(views)
        _check_numbers(everything)
        least = everything.kthvalue(total - count + 1).values
    if least == -torch.inf:
        raise ConfigError(f"fewer than {count} of {total} weights may be chosen")
    return least


def _narrowed(views: Sequence[View], count: int, total: int) -> Tensor | None:
    """The `count`-th largest score if it is where a sample suggests, or None."""
    low, high = _bounds(_numbers(views, total // SAMPLE), count / total)
    above, inside, most = 0, [], []
    for view in views:
        upper, over = _where(view, torch.ge, high), _where(view, torch.gt, low)
        above += int(upper.count_nonzero())
        inside.append(view[0][over ^ upper].to(low.device))
        most.append(view[0].amax().to(low.device))
    _check_numbers(torch.stack(most))
    between = torch.cat(inside)
    if above < count <= above + len(between):
        return between.kthvalue(len(between) - (count - above) + 1).values
    if count <= above:
        return high if count > at_least(views, high)[0] else None
    return low if count <= sum(at_least(views, low)) else None


def _bounds(sample: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Two scores, or infinities, the first one less than the second, between which that one should be below which a
    share of all are not."""
    sample = sample.sort(descending=True).values
    width = 4 * (share * (1 - share) * len(sample)) ** 0.5 + 8
    first, last = int(share * len(sample) - width), int(share * len(sample) + width)
    high = sample[first] if first >= 0 else sample.new_tensor(torch.inf)
    low = sample[last] if last < len(sample) else sample.new_tensor(-torch.inf)
    return (low, high) if low < high else (low, sample.new_tensor(torch.inf))


def at_least(views: Sequence[View], bound: Tensor) -> tuple[int, int]:
    """How many scores are above a bound, and how many equal to it."""
    above = sum(int(_where(view, torch.gt, bound).count_nonzero()) for view in views)
    return above, sum(int(_where(view, torch.eq, bound).count_nonzero()) for view in views)


def _check_numbers(scores: Tensor) -> None:
    if bool(scores.amax().isnan()):
        raise ConfigError("a score is NaN: training has diverged, or a score divides zero by zero")


def places_of(mask: Tensor) -> Tensor:
    """Where a mask is True: ascending places in the order of its shape, int64. (By numpy on the CPU: far faster.)"""
    flat = mask.reshape(-1)
    return torch.from_numpy(numpy.flatnonzero(flat.numpy())) if flat.is_cpu else flat.nonzero().flatten()


def shared(total: int, wishes: Sequence[float], most: Sequence[int]) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to wishes as far as limits allow (largest remainders).

    Args:
        total: at most the sum of `most`.
        wishes: one number >= 0 each.
        most: the limit of each.
    """
    full: set[int] = set()
    while True:
        left = total - sum(most[i] for i in full)
        weight = sum(wish for i, wish in enumerate(wishes) if i not in full)
        shares = [wish * left / weight if weight else 0.0 for wish in wishes]
        over = {i for i, share in enumerate(shares) if i not in full and share > most[i]}
        if not over:
            break
        full |= over
    exact = [float(most[i]) if i in full else share for i, share in enumerate(shares)]
    counts = [min(int(share + 1e-9), limit) for share, limit in zip(exact, most, strict=True)]
    missing = total - sum(counts)
    while missing > 0:
        open_ = [i for i, count in enumerate(counts) if count < most[i]]
        for i in sorted(open_, key=lambda i: (counts[i] - exact[i], i))[:missing]:
            counts[i] += 1
        missing = total - sum(counts)
    return counts
