"""Writing to units by position."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import Expression
from meristem.axes.recorder import Ref
from meristem.axes.rules.indexing import PICKED, picked_along
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value


@rule("index_put", "_index_put_impl")
def index_put(c: Context) -> list[Value]:
    """`x[i, j] = values`, `x[mask] = values`: indexed dimensions are picked or masked; the others, behind them, are
    those of the values."""
    x, values = c.value(c.call.args[0]), c.value(c.argument(2, "values"))
    indices: Sequence[Ref | None] = c.argument(1, "indices")
    given = [index for index in indices if index is not None]
    if list(indices[: len(given)]) != given:
        return c.unknown()
    kept = list(x.dims)
    masked: list[Expression] = []
    for reference in given:
        index = c.value(reference)
        if c.recording.dtypes[reference.value].itemsize != 1:
            c.positional(kept.pop(0), PICKED)
            continue
        for own in index.dims:
            c.unify(kept[0], own)
            masked.append(kept.pop(0))
        if index.static:
            c.meets_activation(index)
    front = max(0, len(values.dims) - len(kept))
    broadcast(c, [Value(tuple(kept)), Value(values.dims[front:])])
    if any(c.space.size(own) != 1 for own in values.dims[:front]):
        for own in (*masked, *values.dims[:front]):
            c.positional(own, PICKED)
    _meet(c, x, [values])
    return [Value(x.dims)]


@rule("index_add")
def index_add(c: Context) -> list[Value]:
    """`index_add(x, dim, index, source)`: along one dimension rows are picked and added to, the others are shared."""
    x, source = c.value(c.call.args[0]), c.value(c.argument(3, "source"))
    if len(x.dims) != len(source.dims) or not x.dims:
        return c.unknown()
    picked_along(c, c.argument(1, "dim") % len(x.dims), [x, source])
    _meet(c, x, [source])
    return [c.derived(x.dims, [x, source])]


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(c: Context) -> list[Value]:
    """`scatter(x, dim, index, source)`: units of the source go to those of x that the index picks along one dimension;
    index and source may be smaller than x. The source may be a number."""
    x, positions, given = c.value(c.call.args[0]), c.value(c.argument(2, "index")), c.argument(3, "src")
    sources = [c.value(given)] if isinstance(given, Ref) else []
    met = [x, positions, *sources]
    if not x.dims or any(len(value.dims) != len(x.dims) for value in met):
        return c.unknown()
    picked_along(c, c.argument(1, "dim") % len(x.dims), met)
    _meet(c, x, sources)
    return [c.derived(x.dims, met, keeps_zero=False)]


def _meet(c: Context, x: Value, sources: Sequence[Value]) -> None:
    """What is written and what it is written into: static tensors among activations are carried along."""
    if any(not value.static for value in c.tensors()):
        for value in (x, *sources):
            if value.static:
                c.carry(value, None)
                c.meets_activation(value)
