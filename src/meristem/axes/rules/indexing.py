"""Picking units by position."""

from __future__ import annotations

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
    if any(c.recording.dtypes[r.value].itemsize == 1 for r in c.argument(1, "indices") if r is not None):
        return c.unknown()  # a mask: the number of units depends on the data
    new = broadcast(c, picked)
    weight = _chosen(c, x, [d for d in range(len(x.dims)) if d not in used], picked)
    adjacent = used == list(range(used[0], used[0] + len(used)))
    front = used[0] if adjacent else 0
    kept: list[Expression] = [dim for d, dim in enumerate(x.dims) if d not in used]
    return [c.derived([*kept[:front], *new, *kept[front:]], [x, *([] if weight else picked)], keeps_zero=x.keeps_zero)]


def _chosen(c: Context, x: Value, kept: list[int], picked: list[Value]) -> bool:
    """Whether data choose among weights, so that the result is a weight. A vector for each choice is none: it is what
    an embedding gives, and the table produces its units."""
    if not x.static or all(value.static for value in picked):
        return False
    c.meets_activation(x)
    if len(kept) == 1:
        c.mark(x, kept[0], Role.PRODUCES)
    return len(kept) > 1


@rule("index_put", "_index_put_impl")
def index_put(c: Context) -> list[Value]:
    """`x[i, j] = values`: indexed dimensions are picked; the others, behind them, are those of the values."""
    x, values = c.value(c.call.args[0]), c.value(c.argument(2, "values"))
    used = [d for d, i in enumerate(c.argument(1, "indices")) if i is not None]
    for d in used:
        c.positional(x.dims[d], PICKED)
    kept = x.dims[len(used) :] if used == list(range(len(used))) else None
    if kept is None:
        return c.unknown()
    own = values.dims[max(0, len(values.dims) - len(kept)) :]
    broadcast(c, [Value(kept), Value(own)])
    if x.static and not values.static:
        c.meets_activation(x)
    return [Value(x.dims)]


@rule("index_add")
def index_add(c: Context) -> list[Value]:
    """`index_add(x, dim, index, source)`: along one dimension rows are picked and added to, the others are shared."""
    x, source = c.value(c.call.args[0]), c.value(c.argument(3, "source"))
    dim = c.argument(1, "dim") % len(x.dims)
    for own in (x.dims[dim], source.dims[dim]):
        c.positional(own, PICKED)
    for d, (own, other) in enumerate(zip(x.dims, source.dims, strict=True)):
        if d != dim:
            c.unify(own, other)
    for value, met in ((x, source), (source, x)):
        if value.static and not met.static:
            c.meets_activation(value)
    return [c.derived(x.dims, [x, source])]


@rule("index_select")
def index_select(c: Context) -> list[Value]:
    """`index_select(x, dim, index)`: the units of an index, in its order."""
    x, picked = c.value(c.call.args[0]), c.value(c.argument(2, "index"))
    dim = c.argument(1, "dim") % len(x.dims)
    c.positional(x.dims[dim], PICKED)
    new = picked.dims[0] if picked.dims else ONE
    weight = _chosen(c, x, [d for d in range(len(x.dims)) if d != dim], [picked])
    return [c.derived([*x.dims[:dim], new, *x.dims[dim + 1 :]], [x] if weight else [x, picked])]


@rule("gather", "take_along_dim", "scatter", "scatter_add", "scatter_reduce")
def gather(c: Context) -> list[Value]:
    """`gather(x, dim, index)` and `scatter`: units picked along one dimension, position by position."""
    x, dim = c.value(c.call.args[0]), c.argument(1, "dim")
    positions = c.value(c.argument(2, "index"))
    dim %= len(x.dims)
    c.positional(x.dims[dim], PICKED)
    c.positional(positions.dims[dim], PICKED)
    for d, (own, other) in enumerate(zip(x.dims, positions.dims, strict=True)):
        if d != dim and ONE not in (own, other):
            same = c.space.size(own) == c.space.size(other)
            c.unify(own, other) if same else c.positional(own, PICKED)
    source = positions if c.call.name in ("aten.gather", "aten.take_along_dim") else x
    return [c.derived(source.dims, c.tensors(), keeps_zero=False)]


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
