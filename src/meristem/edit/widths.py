"""What changes of the module tree do to units: an axis of which no unit stays, and one that begins without any.

A branch of a concatenation takes its units along when it goes: their axis is gathered to nothing, in everything that
reads them. A branch that is to be born is an axis of its own, too, of no units yet, which lies beside that of a module
in everything that reads it, and is gathered as any other. So both are ordinary gathers, in one transaction with the
change of the tree that takes away, or brings, the modules that produce the units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from meristem.axes.expression import Concat, Expression, Leaf, Product, leaves
from meristem.axes.guards import Guard, computed, replaced
from meristem.axes.map import Axis, AxisMap
from meristem.axes.module_path import within
from meristem.edit.checks import tensors_of
from meristem.edit.commit import Request
from meristem.edit.compute import Change
from meristem.edit.deepen import DepthChange
from meristem.edit.gather import Gather, Nothing
from meristem.edit.indices import Indices, Recipe
from meristem.edit.newborns import ZeroFanOut
from meristem.edit.tree import NO_WIDTHS, Opening, Widths
from meristem.errors import EditError, FrozenAxisError


def with_widths(request: Request, depth: Sequence[DepthChange]) -> Request:
    """An edit of units, with what changes of the module tree do to units besides.

    Raises:
        EditError: there is no such axis, or two changes open an axis at one place.
        FrozenAxisError: an axis may not be edited.
    """
    wanted = NO_WIDTHS
    for change in depth:
        wanted = wanted.joined(change.widths(request.axes))
    if wanted == NO_WIDTHS:
        return request
    axes, sizes = _widened(request.axes, wanted)
    emptied = {number for number, size in sizes.items() if not size}
    born = [
        Change(axes.axes[number], Gather((-1,) * size, (True,) * size), ZeroFanOut())
        for number, size in sizes.items()
        if size
    ]
    own = [change for change in request.changes if change.axis.index not in emptied]
    gone = [Change(axes.axes[index], Nothing(), ZeroFanOut()) for index in sorted(emptied)]
    return replace(request, axes=axes, changes=(*own, *gone, *born))


def widened_by(axes: AxisMap, depth: Sequence[DepthChange]) -> tuple[AxisMap, Mapping[int, int]]:
    """What changes of the module tree do to units, without a word of which: the map with an axis of no units for each
    that begins, and the sizes, by number, of these and of those of which no unit stays.

    Raises:
        EditError, FrozenAxisError: as `with_widths`.
    """
    wanted = NO_WIDTHS
    for change in depth:
        wanted = wanted.joined(change.widths(axes))
    return _widened(axes, wanted)


def begun(axes: AxisMap) -> frozenset[int]:
    """The axes, by number, that have no units yet."""
    return frozenset(axis.index for axis in axes if not axis.size)


def check_filled(request: Request, moved: Mapping[str, str]) -> None:
    """Refuse an edit that leaves a tensor without entries.

    Args:
        request: what happened to units.
        moved: the new name of every parameter and buffer that stayed, by its old one.

    Raises:
        EditError: an axis is left without units, and what lies over it stays.
    """
    emptied = {change.axis.index for change in request.changes if isinstance(change.gather, Nothing)}
    tensors = tensors_of(request.axes.model)
    for old, new in moved.items():
        layout = request.axes.layouts.get(old)
        concerned = emptied.intersection(axis for dim in layout.dims for axis in leaves(dim)) if layout else ()
        if concerned and not tensors[new].numel():
            names = ", ".join(request.axes.axes[axis].name for axis in sorted(concerned))
            raise EditError(f"nothing would be left of {old}: all that it reads or produces goes with {names}")


def followed(request: Request, moved: Mapping[str, str]) -> dict[str, Recipe]:
    """How tensors shaped like those that stayed follow what an edit did to units.

    Returns:
        by the name of now, the recipe of every parameter and buffer that stayed and was gathered.
    """
    indices = Indices({change.axis.index: change.gather for change in request.changes}, request.axes.sizes)
    found: dict[str, Recipe] = {}
    for old, new in moved.items():
        layout = request.axes.layouts.get(old)
        dims = enumerate(layout.dims if layout is not None else ())
        recipe = {dim: indices.along(one, torch.device("cpu")) for dim, one in dims if indices.edited(one)}
        if recipe:
            found[new] = recipe
    return found


def shapes_of(request: Request, moved: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The shapes that parameters and buffers that stayed had before an edit of units, by the names of now."""
    axes = request.axes
    return {new: axes.layouts[old].shape(axes.sizes) for old, new in moved.items() if old in axes.layouts}


def _open(axes: AxisMap, name: str) -> Axis:
    axis = axes.by_name.get(name)
    if axis is None:
        raise EditError(f"the edit of the module tree concerns the axis {name!r}, which this model does not have")
    if axis.frozen is not None:
        raise FrozenAxisError(f"{name} may not be edited: {axis.frozen}")
    return axis


def _widened(axes: AxisMap, widths: Widths) -> tuple[AxisMap, dict[int, int]]:
    """The map with an axis of no units for each opening; the sizes to which axes come, emptied ones too."""
    sizes = {_open(axes, name).index: 0 for name in widths.emptied}
    places = [opening.axis for opening in widths.opened]
    if len(set(places)) != len(places):
        raise EditError("two depth edits put a branch beside the units of one axis; commit the first before the second")
    for opening in widths.opened:
        beside = _open(axes, opening.axis)
        axes = _without_counterpart(axes, beside)
        new = replace(axes.axes[beside.index], index=len(axes), name=f"a branch beside {opening.module}", size=0)
        axes = _with_axis(axes, opening, beside, new)
        sizes[new.index] = opening.units
    return axes, sizes


def _without_counterpart(axes: AxisMap, axis: Axis) -> AxisMap:
    """The map that does not know what an axis is multiplied with: the new axis is laid out over that as well."""
    return replace(axes, axes=tuple(replace(a, counterpart=None) if a.index == axis.index else a for a in axes.axes))


def _with_axis(axes: AxisMap, opening: Opening, beside: Axis, new: Axis) -> AxisMap:
    """The map in which all but the module itself reads the new axis behind the other one."""

    def lay(expression: Expression) -> Expression:
        if isinstance(expression, Leaf):
            return Concat((expression, Leaf(new.index))) if expression.axis == beside.index else expression
        if isinstance(expression, Product):
            return Product(tuple(map(lay, expression.factors)))
        return Concat(tuple(map(lay, expression.parts)))

    path, layouts = opening.module, dict(axes.layouts)
    for name, layout in axes.layouts.items():
        if not within(name, path) and any(beside.index in leaves(dim) for dim in layout.dims):
            roles = tuple({**kinds, new.index: kinds.get(beside.index, frozenset())} for kinds in layout.roles)
            layouts[name] = replace(layout, dims=tuple(map(lay, layout.dims)), roles=roles)
    attributes = tuple(b if within(b.module, path) else replace(b, value=lay(b.value)) for b in axes.attributes)
    work = tuple(w if within(w.module, path) else replace(w, lengths=tuple(map(lay, w.lengths))) for w in axes.work)
    guards = tuple(g if within(g.module, path) else _relaid(g, lay) for g in axes.guards)
    return replace(axes, axes=(*axes.axes, new), layouts=layouts, attributes=attributes, work=work, guards=guards)


def _relaid(guard: Guard, lay: Callable[[Expression], Expression]) -> Guard:
    """The comparison of lengths that are laid out otherwise."""
    left, right = (
        replaced(side, lambda leaf: computed(lay(leaf), lambda axis: axis)) for side in (guard.left, guard.right)
    )
    return replace(guard, left=left, right=right)
