"""Tables written by hand: how every tensor of a small model is laid out over axes, and what may be edited.

A table maps tensor names to one expression per dimension, separated by commas. A number is a length that cannot
change; a letter is an axis, the same letter everywhere the same axis; `a * b` is a product from the outermost to the
innermost factor, `a + b` a concatenation. `LSTM: "4*h, x"` reads: four gates of h units, x inputs.

A map agrees with a table if there is a one-to-one renaming of its editable axes to the table's letters under which
every dimension is equal; lengths that cannot change are compared as numbers, however the map factors them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from meristem.axes.expression import Concat, Expression, Leaf, size_of
from meristem.axes.map import AxisMap

Form: TypeAlias = "int | str | tuple[str, tuple[Form, ...]]"
"""A normal form: a number, an axis's letter, or ("*" or "+", parts) with no nested part of the same kind."""


def product(parts: Sequence[Form]) -> Form:
    """Row-major product; neighbouring numbers are multiplied."""
    flat: list[Form] = []
    for part in parts:
        for factor in part[1] if isinstance(part, tuple) and part[0] == "*" else (part,):
            if isinstance(factor, int) and flat and isinstance(flat[-1], int):
                flat[-1] *= factor
            elif factor != 1:
                flat.append(factor)
    flat = [factor for factor in flat if factor != 1]
    return flat[0] if len(flat) == 1 else ("*", tuple(flat)) if flat else 1


def concatenation(parts: Sequence[Form]) -> Form:
    """Pieces side by side; neighbouring numbers are added, and n equal pieces are `n * piece`."""
    flat: list[Form] = []
    for part in parts:
        for piece in part[1] if isinstance(part, tuple) and part[0] == "+" else (part,):
            if isinstance(piece, int) and flat and isinstance(flat[-1], int):
                flat[-1] += piece
            else:
                flat.append(piece)
    if len(flat) > 1 and all(piece == flat[0] for piece in flat):
        return product((len(flat), flat[0]))
    return flat[0] if len(flat) == 1 else ("+", tuple(flat))


def parse(text: str) -> tuple[Form, ...]:
    """The dimensions that a table's row names."""
    tree = ast.parse(f"({text},)", mode="eval").body
    assert isinstance(tree, ast.Tuple)
    return tuple(_form(node) for node in tree.elts)


def _form(node: ast.expr) -> Form:
    if isinstance(node, ast.Constant):
        return int(str(node.value))
    if isinstance(node, ast.Name):
        return node.id
    assert isinstance(node, ast.BinOp), ast.dump(node)
    join = product if isinstance(node.op, ast.Mult) else concatenation
    return join((_form(node.left), _form(node.right)))


def normal(expression: Expression, axes: AxisMap) -> Form:
    """The normal form of a dimension of a map; editable axes appear as `#number`."""
    if isinstance(expression, Leaf):
        axis = axes.axes[expression.axis]
        return f"#{axis.index}" if axis.editable else size_of(expression, axes.sizes)
    children = expression.parts if isinstance(expression, Concat) else expression.factors
    join = concatenation if isinstance(expression, Concat) else product
    return join([normal(child, axes) for child in children])


def disagreements(axes: AxisMap, table: Mapping[str, str]) -> list[str]:
    """Where the map and the table differ; empty if they agree."""
    letters: dict[str, str] = {}
    found: list[str] = []
    for name, layout in axes.layouts.items():
        if name not in table:
            if any(not isinstance(normal(dim, axes), int) for dim in layout.dims):
                found.append(f"{name} is not in the table but the map would edit it")
            continue
        ours, theirs = tuple(normal(dim, axes) for dim in layout.dims), parse(table[name])
        if len(ours) != len(theirs) or not all(_match(a, b, letters) for a, b in zip(ours, theirs, strict=True)):
            found.append(f"{name}: the map says {show(ours, axes)}, the table {table[name]!r}")
    found += [f"{name} is in the table but not in the map" for name in table if name not in axes.layouts]
    return found


def _match(ours: Form, theirs: Form, letters: dict[str, str]) -> bool:
    if isinstance(ours, str) and isinstance(theirs, str):
        if ours not in letters and theirs not in letters.values():
            letters[ours] = theirs
        return letters.get(ours) == theirs
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        same = (ours[0], len(ours[1])) == (theirs[0], len(theirs[1]))
        return same and all(_match(a, b, letters) for a, b in zip(ours[1], theirs[1], strict=True))
    return ours == theirs


def show(form: Form | tuple[Form, ...], axes: AxisMap) -> str:
    """A normal form for people, with the names of axes."""
    if isinstance(form, int):
        return str(form)
    if isinstance(form, str):
        return f"[{axes.axes[int(form[1:])].name}]"
    if len(form) == 2 and form[0] in ("*", "+") and isinstance(form[1], tuple):
        return "(" + f" {form[0]} ".join(show(part, axes) for part in form[1]) + ")"
    return ", ".join(show(part, axes) for part in form)  # type: ignore[arg-type]
