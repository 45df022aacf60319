"""Which axes a controller may touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from meristem.axes.map import Axis, AxisMap
from meristem.axes.pattern import matches
from meristem.errors import FrozenAxisError, UnknownAxisError

Selection: TypeAlias = "str | Sequence[str] | Callable[[Axis], bool] | None"
"""Names of axes, or glob patterns of names; a predicate over editable axes; or None for all editable axes."""


def choose(axes: AxisMap, selection: Selection) -> tuple[Axis, ...]:
    """The editable axes that a selection means, in the order of the map.

    A pattern is matched against axis names; one without wildcards may also be anything that `axes[...]` understands.

    Raises:
        UnknownAxisError: a pattern matches no axis, or a predicate no editable one.
        FrozenAxisError: a pattern matches frozen axes only; the message carries the reasons.
    """
    if selection is None:
        return axes.editable
    if callable(selection):
        chosen = tuple(axis for axis in axes.editable if selection(axis))
        if not chosen:
            raise UnknownAxisError(f"the predicate chose none of the {len(axes.editable)} editable axes")
        return chosen
    patterns = (selection,) if isinstance(selection, str) else tuple(selection)
    indices = {axis.index for pattern in patterns for axis in _matching(axes, pattern)}
    return tuple(axis for axis in axes.editable if axis.index in indices)


def choose_among(axes: AxisMap, selection: Selection, names: Iterable[str]) -> tuple[Axis, ...]:
    """Those of some axes, new ones say, that may be edited and that a selection means; a pattern by their names alone,
    and it need not match any."""
    wanted = set(names)
    found = tuple(axis for axis in axes.editable if axis.name in wanted)
    if selection is None:
        return found
    if callable(selection):
        return tuple(axis for axis in found if selection(axis))
    patterns = (selection,) if isinstance(selection, str) else tuple(selection)
    return tuple(axis for axis in found if matches(axis.name, patterns))


def _matching(axes: AxisMap, pattern: str) -> tuple[Axis, ...]:
    found = tuple(axis for axis in axes if matches(axis.name, pattern)) or (axes[pattern],)
    editable = tuple(axis for axis in found if axis.editable)
    if not editable:
        reasons = "; ".join(f"{axis.name}: {axis.frozen}" for axis in found)
        raise FrozenAxisError(f"{pattern!r} matches frozen axes only ({reasons})")
    return editable
