"""In step: axes that gain and lose the same number of units, since a fast kernel wants two lengths to be the same.

The fused kernels of attention, for one, want the heads of queries and keys to be as large as those of values, which are
other axes: where they differ, PyTorch computes attention step by step, which is slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meristem.axes.expression import Expression, leaves, size_of
from meristem.axes.map import Axis, AxisMap


def in_step(axes: AxisMap) -> tuple[tuple[int, int], ...]:
    """Pairs of axes, by number, that stay in step by gaining and losing the same number of units."""
    return tuple(both for _, _, both in _pairs(axes) if both is not None)


def out_of_step(axes: AxisMap, chosen: Iterable[Axis]) -> dict[Axis, Axis]:
    """Those of the chosen axes that must not be edited if lengths are to stay the same, each with an axis that stays
    behind: one that is not chosen; or of a length that no number of units makes the same."""
    going = {axis.index for axis in chosen}
    found: dict[Axis, Axis] = {}
    while True:
        before = len(found)
        for first, second, both in _pairs(axes):
            for one, other in ((first, second), (second, first)):
                moved = going.intersection(leaves(one))
                if moved and (both is None or not going.issuperset(both)):
                    going -= moved
                    found |= {axes.axes[number]: axes.axes[next(leaves(other))] for number in moved}
        if len(found) == before:
            return found


def _pairs(axes: AxisMap) -> Iterator[tuple[Expression, Expression, tuple[int, int] | None]]:
    """Pairs of lengths that are the same today, and the axes by which they grow and shrink one by one, if there are."""
    for first, second in axes.alike:
        if size_of(first, axes.sizes) == size_of(second, axes.sizes):
            one, other = _only(axes, first), _only(axes, second)
            yield first, second, None if one is None or other is None else (one, other)


def _only(axes: AxisMap, length: Expression) -> int | None:
    """The only axis of a length that may be edited, by number, if the length has one index for each of its units."""
    editable = {number for number in leaves(length) if axes.axes[number].editable}
    if len(editable) != 1:
        return None
    (number,) = editable
    more = [size + (index == number) for index, size in enumerate(axes.sizes)]
    return number if size_of(length, more) == size_of(length, axes.sizes) + 1 else None
