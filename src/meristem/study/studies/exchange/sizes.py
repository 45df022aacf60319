"""Nets of a given number of operations, and how that number follows a course."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf

from meristem.axes import AxisMap

Course = tuple[tuple[float, float], ...]
"""Points (share of the run, operations in units of the final net's), rising in time; linear in between, constant before
the first and after the last."""


_POINTS = 1000


def at(course: Course, share: float) -> float:
    """The operations at a share of the run."""
    for (start, low), (end, high) in pairwise(course):
        if start <= share < end:
            return low + (high - low) * (share - start) / (end - start)
    return course[0][1] if share < course[0][0] else course[-1][1]


def mean(course: Course, start: float) -> float:
    """The mean over the run for a net that begins with that many operations, which may be a little less than the course
    allows: it never takes more, if the course does not rise."""
    most = start if course[0][1] == max(height for _, height in course) else inf
    return sum(min(at(course, (k + 0.5) / _POINTS), most) for k in range(_POINTS)) / _POINTS


def bound(course: Course, reference: float, steps: int) -> Callable[[int], float]:
    """The largest number of operations of the net after each optimizer step."""
    return lambda step: reference * at(course, step / steps)


def scaled(axes: AxisMap, widths: Sequence[int], operations: float) -> list[int]:
    """Widths, all by the same factor, whose net comes nearest to some operations from below; at least 2.

    Args:
        axes: the map of a net with these widths, whose editable axes are the layers in order.
        widths: of the layers.
        operations: of a forward pass on the example.
    """
    tried = (tuple(max(2, round(width * factor / 200)) for width in widths) for factor in range(20, 1200))
    return list(max((w for w in dict.fromkeys(tried) if flops(axes, w) <= operations), key=lambda w: flops(axes, w)))


def flops(axes: AxisMap, widths: Sequence[int]) -> int:
    """The operations of a net with these widths."""
    sizes = list(axes.sizes)
    for axis, width in zip(axes.editable, widths, strict=True):
        sizes[axis.index] = width
    return axes.flops(sizes)
