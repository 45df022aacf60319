"""Linked: which things belong together, and what all of them allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lcm


def linked(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below `count` in groups: those that links connect, directly or by others; in order."""
    group = list(range(count))
    for one, other in links:
        old, new = group[other], group[one]
        group = [new if held == old else held for held in group]
    found: dict[int, list[int]] = {}
    for number, held in enumerate(group):
        found.setdefault(held, []).append(number)
    return list(found.values())


def common(counts: Sequence[range]) -> range:
    """The numbers that are in all of these ranges, which ascend."""
    first = next((number for number in counts[0] if all(number in one for one in counts)), None)
    if first is None:
        return range(0)
    return range(first, min(one[-1] for one in counts) + 1, lcm(*(one.step for one in counts)))
