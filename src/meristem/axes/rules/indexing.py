"""Picking units by position."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import ONE, Expression
from meristem.axes.map import Role
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value

PICKED = "its units are picked by position"


@rule("select")
def select(c: Context) -> list[Value]:
    """`select(x, dim, index)`: one unit, the dimension goes."""
    x = c.value(c.call.args[0])
    dim = c.argument(1, "dim") % len(x.dims)
    c.positional(x.dims[dim], PICKED)
    return [c.derived([*x.dims[:dim], *x.dims[dim + 1 :]], [x])]


@rule("unbind")
def unbind(c: Context) -> list[Value]:
    """`unbind(x, dim)`: every unit on its own."""
    x = c.value(c.call.args[0])
    dim = c.argument(1, "dim", 0) % len(x.dims)
    c.positional(x.dims[dim], PICKED)
    return [c.derived([*x.dims[:dim], *x.dims[dim + 1 :]], [x]) for _ in c.call.outputs]


@rule("index")
def index(c: Context) -> list[Value]:
    """`x[i, :, j]`: indexed dimensions are replaced by the indices' dimensions, in place or in front."""
    x = c.value(c.call.args[0])
    indices = [None if i is None else c.value(i) for i in c.argument(1, "indices")]
    used = [d for d, i in enumerate(indices) if i is not None]
    for d in used:
        c.positional(x.dims[d], PICKED)
    picked = [i for i in indices if i is not None]
    masks = [r is not None and c.recording.dtypes[r.value].itemsize == 1 for r in c.argument(1, "indices")]
    if any(masks):
        return _masked(c, x, picked[0], used[0]) if len(picked) == 1 else c.unknown()
    new = broadcast(c, picked)
    weight = _chosen(c, x, [d for d in range(len(x.dims)) if d not in used], picked)
    adjacent = used == list(range(used[0], used[0] + len(used)))
    front = used[0] if adjacent else 0
    kept: list[Expression] = [dim for d, dim in enumerate(x.dims) if d not in used]
    return [c.derived([*kept[:front], *new, *kept[front:]], [x, *([] if weight else picked)], keeps_zero=x.keeps_zero)]


def _masked(c: Context, x: Value, mask: Value, first: int) -> list[Value]:
    """`x[mask]`: the dimensions that the mask has become one, as long as the data say."""
    last = first + len(mask.dims)
    for d, chosen in enumerate(mask.dims, first):
        c.positional(x.dims[d], PICKED)
        c.unify(x.dims[d], chosen)
    count = c.fresh(c.shape()[first], "as many as a mask says")
    return [c.derived([*x.dims[:first], count, *x.dims[last:]], [x, mask])]


def _chosen(c: Context, x: Value, kept: list[int], picked: list[Value]) -> bool:
    """Whether data choose among weights, so that the result is a weight. A vector for each choice is none: it is what
    an embedding gives, and the table produces its units."""
    if not x.static or all(value.static for value in picked):
        return False
    c.meets_activation(x)
    if len(kept) == 1:
        c.mark(x, kept[0], Role.PRODUCES)
    return len(kept) > 1


@rule("index_select")
def index_select(c: Context) -> list[Value]:
    """`index_select(x, dim, index)`: the units of an index, in its order."""
    x, picked = c.value(c.call.args[0]), c.value(c.argument(2, "index"))
    dim = c.argument(1, "dim") % len(x.dims)
    c.positional(x.dims[dim], PICKED)
    new = picked.dims[0] if picked.dims else ONE
    weight = _chosen(c, x, [d for d in range(len(x.dims)) if d != dim], [picked])
    return [c.derived([*x.dims[:dim], new, *x.dims[dim + 1 :]], [x] if weight else [x, picked])]


@rule("gather")
def gather(c: Context) -> list[Value]:
    """`gather(x, dim, index)`: units picked along one dimension, position by position along the others."""
    x, positions = c.value(c.call.args[0]), c.value(c.argument(2, "index"))
    if not x.dims or len(x.dims) != len(positions.dims):
        return c.unknown()
    dim = c.argument(1, "dim") % len(x.dims)
    picked_along(c, dim, [x, positions])
    weight = _chosen(c, x, [d for d in range(len(x.dims)) if d != dim], [positions])
    return [c.derived(positions.dims, [x] if weight else [x, positions])]


def picked_along(c: Context, dim: int, values: Sequence[Value]) -> None:
    """Tensors of one rank meet position by position, except along `dim`, where units are picked. None need be as long
    as the others: of longer ones only the first units are used."""
    for d, met in enumerate(zip(*(value.dims for value in values), strict=True)):
        if d != dim and len({c.space.size(own) for own in met}) == 1:
            for other in met[1:]:
                c.unify(met[0], other)
        else:
            for own in met:
                c.positional(own, PICKED)


@rule("roll")
def roll(c: Context) -> list[Value]:
    """`roll(x, shifts, dims)`: the order along the dimensions is used."""
    x, dims = c.value(c.call.args[0]), c.argument(2, "dims", [])
    for dim in dims or range(len(x.dims)):
        c.positional(x.dims[dim], "its units are rolled along")
    return [c.derived(x.dims, [x])]


@rule("view_as_complex")
def view_as_complex(c: Context) -> list[Value]:
    """The last dimension, of length 2, becomes the two parts of a complex number."""
    x = c.value(c.call.args[0])
    c.positional(x.dims[-1], "the real and the imaginary part")
    return [c.derived(x.dims[:-1], [x])]


@rule("view_as_real")
def view_as_real(c: Context) -> list[Value]:
    """The two parts of a complex number become a last dimension."""
    x = c.value(c.call.args[0])
    return [c.derived([*x.dims, c.fresh(2, "the real and the imaginary part")], [x])]


@rule("tril", "triu", "diagonal", "diag_embed")
def triangle(c: Context) -> list[Value]:
    """Triangles and diagonals of the last two dimensions."""
    x = c.value(c.call.args[0])
    for dim in x.dims[-2:]:
        c.positional(dim, PICKED)
    if len(c.shape()) == len(x.dims):
        return [c.derived(x.dims, [x])]
    return c.unknown()
