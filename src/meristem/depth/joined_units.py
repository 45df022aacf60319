"""The units that modules alone append to a concatenation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meristem.axes.expression import Concat, Expression, Leaf, Product, leaves
from meristem.axes.flow import Flow, Version
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.module_path import within
from meristem.axes.space import SINGLE
from meristem.depth.lengths import Lengths

NO_UNITS = "its units are not made by layers"
"""Why the length of a tensor is no axis of the map."""


def units_of(lengths: Lengths, flow: Flow, operand: Version, end: int, paths: Sequence[str]) -> tuple[str, ...] | str:
    """The names of the axes that make up the length of an operand of a concatenation, one of each product, if these
    modules alone produce them; else the reason why not."""
    call = flow.recording.calls[end]
    dims = lengths.of(operand)
    place = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    if not dims:
        return "nothing is known of what it appends"
    whole = dims[place]
    if whole is None:
        return SINGLE if flow.shape(operand)[place] == 1 else NO_UNITS
    found: dict[str, None] = {}
    for part in whole.parts if isinstance(whole, Concat) else (whole,):
        reasons = {axis: foreign(lengths.axes, axis, paths) for axis in _factors(lengths.axes, part)}
        own = next((axis for axis, reason in reasons.items() if reason is None), None)
        if own is None:
            return "; ".join(dict.fromkeys(filter(None, reasons.values()))) or NO_UNITS
        found[own.name] = None
    return tuple(found)


def dim_of(lengths: Lengths, returned: Version, units: Iterable[str]) -> int | None:
    """The dimension of the units in what a module returns, counted from the end where it is the last one."""
    wanted = {lengths.axes[name].index for name in units}
    dims = lengths.of(returned)
    own = [d for d, dim in enumerate(dims) if dim is not None and not wanted.isdisjoint(leaves(dim))]
    return None if len(own) != 1 else -1 if own[0] == len(dims) - 1 else own[0]


def foreign(axes: AxisMap, axis: Axis, paths: Sequence[str]) -> str | None:
    """Why the units of an axis are not those of some modules alone, or None."""
    if axis.frozen is not None:
        return f"{axis.name}: {axis.frozen}"
    made = [place.layout for place in axes.places[axis.index] if Role.PRODUCES in place.roles]
    for layout in made:
        for name in layout.names:
            if not any(within(name, path) for path in paths):
                return f"its units are also those of {name.rpartition('.')[0] or name}"
    return None if made else NO_UNITS


def _factors(axes: AxisMap, part: Expression) -> tuple[Axis, ...]:
    """The axes of a product, or the axis itself."""
    factors = part.factors if isinstance(part, Product) else (part,)
    return tuple(axes.axes[factor.axis] for factor in factors if isinstance(factor, Leaf))
