"""What a map says about a model, as text: editable axes, frozen ones by reason, totals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from meristem.axes import Axis, AxisMap
from meristem.axes.expression import leaves
from meristem.report.numbers import with_prefix

COLUMNS = ("axis", "units", "of what", "growth", "occurs in")


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """Axes that are frozen for the same reason."""

    reason: str
    axes: tuple[Axis, ...]

    def examples(self, count: int = 3) -> str:
        """The first few names."""
        names = [axis.name for axis in self.axes[:count]]
        return ", ".join(names) + (", ..." if len(self.axes) > count else "")


def editable_rows(axes: AxisMap) -> Iterator[tuple[str, ...]]:
    """One row for each editable axis, in the order of `COLUMNS`."""
    for axis in axes.editable:
        tensors = dict.fromkeys(place.layout.name for place in axes.places[axis.index])
        growth = "exact" if axis.exact else "inexact: " + ", ".join(sorted(c.value for c in axis.unsettled))
        yield axis.name, str(axis.size), axis.kind, growth, f"{len(tensors)} tensors"


def frozen_groups(axes: AxisMap) -> list[FrozenGroup]:
    """The frozen axes by reason, the most frequent reason first."""
    groups: dict[str, list[Axis]] = defaultdict(list)
    for axis in axes:
        if axis.frozen is not None:
            groups[axis.frozen].append(axis)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [FrozenGroup(reason, tuple(found)) for reason, found in ordered]


def editable_share(axes: AxisMap) -> float:
    """Share of the parameters that lie in a tensor with an editable axis."""
    editable = {axis.index for axis in axes.editable}
    total = reached = 0
    for layout in axes.layouts.values():
        if not layout.buffer:
            count = 1
            for length in layout.shape(axes.sizes):
                count *= length
            total += count
            reached += count * any(axis in editable for dim in layout.dims for axis in leaves(dim))
    return reached / total if total else 0.0


def totals(axes: AxisMap) -> str:
    """One line: axes, parameters, operations."""
    return (
        f"{len(axes.editable)} editable axes; {with_prefix(axes.parameter_count())} parameters, "
        f"{editable_share(axes):.1%} of them in tensors that can be resized; "
        f"{with_prefix(axes.flops(), 'FLOP')} forward on the example"
    )
