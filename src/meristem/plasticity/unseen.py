"""Axes that a controller leaves alone, because parameters that no example reached may share them.

What code does with such parameters is not known. Where it uses them together with an axis that is edited, it breaks in
the first step that takes that way: an expert to which no row of the example went, a branch behind a condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meristem.axes import Axis, AxisMap
from meristem.axes.expression import size_of
from meristem.axes.module_path import within

Spots = Mapping[Axis, Sequence[tuple[str, int]]]
"""For each axis the tensors that it occurs in, by all their names, with the length of the dimension."""


def unseen(axes: AxisMap) -> dict[str, str]:
    """By its name, each editable axis that may be shared with a parameter that no example reached, and which.

    A dimension of such a parameter may be any axis of its length that the code around it sees: that of the innermost
    module around it in which there is one. What lies within one child of that module the code of the module does not
    see. Only whole lengths are compared: an axis that the parameter meets flattened with positions, or side by side
    with others, is not found, as most lengths are multiples or sums of some.
    """
    if not axes.unreached:
        return {}
    spots: Spots = {
        axis: [
            (name, size_of(place.layout.dims[place.dim], axes.sizes))
            for place in axes.places[axis.index]
            for name in place.layout.names
        ]
        for axis in axes.editable
    }
    found: dict[str, str] = {}
    asked: set[tuple[str, int]] = set()
    for name in axes.unreached:
        path = name.rpartition(".")[0]
        for length in {*axes.layouts[name].shape(axes.sizes)} - {1}:
            if (path, length) not in asked:
                asked.add((path, length))
                for axis in _met(spots, path, length):
                    found.setdefault(axis.name, name)
    return {axis.name: found[axis.name] for axis in axes.editable if axis.name in found}


def leaving_out(axes: AxisMap, left: Mapping[str, str]) -> str:
    """What there is to say of axes that are left out, and what can be done."""
    pairs = [f"{axis} (perhaps with {name})" for axis, name in left.items()]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return (
        f"Plasticity leaves out {len(pairs)} of {len(axes.editable)} axes that parameters may share which no example "
        f"reaches: {', '.join(pairs[:3])}{more}; an edit could break the code that uses them. (Axes that "
        "such parameters meet flattened or concatenated are not told.) Give it a map that was traced with an example "
        "that reaches them, `meristem.trace(model, example, also=[(args, kwargs)])`; or, if "
        f"nothing uses them together, name the axes: `axes={[*left][:3]}`"
    )


def _met(spots: Spots, path: str, length: int) -> list[Axis]:
    """The axes of a length that the code of a module sees, or that of the innermost one around it that sees any."""
    while True:
        found = [axis for axis, several in spots.items() if _seen(several, path, length)]
        if found or not path:
            return found
        path = path.rpartition(".")[0]


def _seen(spots: Sequence[tuple[str, int]], path: str, length: int) -> bool:
    """Whether an axis occurs with a length in a module, and not only within one of its children."""
    if not any(_inside(name, path) and size == length for name, size in spots):
        return False
    parts = {_part(name, path) for name, _ in spots}
    return len(parts) > 1 or None in parts


def _part(name: str, path: str) -> str | None:
    """The child of a module that a tensor lies within; None for its own tensors and those outside."""
    if not _inside(name, path):
        return None
    child, _, rest = name[len(path) + 1 if path else 0 :].partition(".")
    return child if rest else None


def _inside(name: str, path: str) -> bool:
    return not path or within(name, path)
