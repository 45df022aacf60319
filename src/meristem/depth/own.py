"""The units that a module alone produces: what a branch beside it would have more of."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.axes.expression import Expression, Leaf, Product
from meristem.axes.flow import Flow
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.module_path import within
from meristem.depth.joined_units import foreign
from meristem.depth.lengths import Lengths


@dataclass(frozen=True)
class Units:
    """Units that a module produces.

    Attributes:
        axis: the name of their axis; of several the first.
        dim: the dimension of them in what it returns, -1 if it is the last.
        frozen: why they are not the module's alone, or None.
    """

    axis: str
    dim: int
    frozen: str | None = None


def own_units(axes: AxisMap, flow: Flow, lengths: Lengths, module: str) -> Units | None:
    """The units of what a module returns that its own layers make, or None if they make none.

    Args:
        axes: the map of the model.
        flow: its run, in which the module is called and returns a tensor.
        lengths: the lengths of the run's tensors.
        module: its path.
    """
    found = {_of_call(axes, lengths.of(flow.version(c.outputs[0], c.last)), module) for c in flow.of[module]}
    if len(found) == 1:
        return found.pop()
    kinds = [units for units in found if units is not None]
    return Units(kinds[0].axis, kinds[0].dim, "it returns other units from call to call")


def _of_call(axes: AxisMap, dims: tuple[Expression | None, ...], module: str) -> Units | None:
    own: dict[int, Units] = {}
    reasons: list[Units] = []
    for dim, expression in enumerate(dims):
        axis = _outermost(axes, expression)
        if axis is None or not _makes(axes, axis, module):
            continue
        units = Units(axis.name, -1 if dim == len(dims) - 1 else dim, _foreign(axes, axis, module))
        if units.frozen is None:
            own.setdefault(axis.index, units)
        else:
            reasons.append(units)
    if len(own) > 1:
        first = next(iter(own.values()))
        return Units(first.axis, first.dim, f"it returns {len(own)} kinds of units of its own, not one")
    return next(iter([*own.values(), *reasons]), None)


def _makes(axes: AxisMap, axis: Axis, module: str) -> bool:
    """Whether a layer in a module produces units of an axis."""
    return any(Role.PRODUCES in place.roles and within(place.layout.name, module) for place in axes.places[axis.index])


def _foreign(axes: AxisMap, axis: Axis, module: str) -> str | None:
    """Why units are not a module's alone, or None."""
    for place in axes.places[axis.index]:
        names = place.layout.names
        inside = any(within(name, module) for name in names)
        if len(names) > 1 and inside:
            return f"{place.layout.name} is held under several names"
        if inside and {Role.PRODUCES, Role.READS} <= place.roles:
            return f"{place.layout.name} both makes its units and reads them, so that a branch would be made of zeros"
    return foreign(axes, axis, (module,))


def _outermost(axes: AxisMap, expression: Expression | None) -> Axis | None:
    """The axis of which a length is so many blocks: the length itself, or the first factor."""
    first = expression.factors[0] if isinstance(expression, Product) and expression.factors else expression
    return axes.axes[first.axis] if isinstance(first, Leaf) else None
