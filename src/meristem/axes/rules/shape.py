"""Operators that only rearrange: reshape, permute, expand, cat, stack, split, slice, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meristem.axes.context import Context
from meristem.axes.expression import ONE, Expression, Product
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value
from meristem.axes.space import concat


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "unsafe_view")
def reshape(c: Context) -> list[Value]:
    """`view(x, sizes)`: factors are regrouped row-major; numbers in the sizes are lengths that the code passes."""
    x, sizes = c.value(c.call.args[0]), c.argument(1, "size" if "view" in c.call.name else "shape")
    if not isinstance(sizes, (list, tuple)):  # view(dtype)
        return [x]
    dims = c.space.reshape(x.dims, c.shape())
    key = "size" if "view" in c.call.name else "shape"
    for i, (size, dim) in enumerate(zip(sizes, dims, strict=True)):
        if size != -1 and dim != ONE:
            c.literal(c.path(1, key, i), dim)
    return [c.derived(dims, [x])]


@rule("flatten", "ravel", "reshape_as", "view_as")
def flatten(c: Context) -> list[Value]:
    """Reshapes to sizes that follow from shapes alone."""
    x = c.value(c.call.args[0])
    return [c.derived(c.space.reshape(x.dims, c.shape()), [x])]


@rule("unflatten")
def unflatten(c: Context) -> list[Value]:
    """`unflatten(x, dim, sizes)`: one dimension becomes several."""
    x, sizes = c.value(c.call.args[0]), c.argument(2, "sizes")
    dim = c.argument(1, "dim") % len(x.dims)
    dims = c.space.reshape(x.dims, c.shape())
    for i, size in enumerate(sizes):
        if size != -1 and dims[dim + i] != ONE:
            c.literal(c.path(2, "sizes", i), dims[dim + i])
    return [c.derived(dims, [x])]


@rule("permute")
def permute(c: Context) -> list[Value]:
    """`permute(x, dims)`."""
    x = c.value(c.call.args[0])
    return [_arranged(x, [d % len(x.dims) for d in c.argument(1, "dims")])]


@rule("transpose", "swapaxes", "swapdims")
def transpose(c: Context) -> list[Value]:
    """`transpose(x, dim0, dim1)`."""
    x = c.value(c.call.args[0])
    order = list(range(len(x.dims)))
    i, j = c.argument(1, "dim0") % len(order), c.argument(2, "dim1") % len(order)
    order[i], order[j] = order[j], order[i]
    return [_arranged(x, order)]


@rule("t", "numpy_T", "mT", "adjoint")
def transposed(c: Context) -> list[Value]:
    """`x.t()`, `x.T`, `x.mT`."""
    x = c.value(c.call.args[0])
    order = list(range(len(x.dims)))
    if c.call.name == "aten.numpy_T":
        order.reverse()
    elif len(order) > 1:
        order[-1], order[-2] = order[-2], order[-1]
    return [_arranged(x, order)]


def _arranged(x: Value, order: Sequence[int]) -> Value:
    origins = tuple(x.origins[d] for d in order) if x.static else ()
    return replace(x, dims=tuple(x.dims[d] for d in order), origins=origins)


@rule("unsqueeze")
def unsqueeze(c: Context) -> list[Value]:
    """A new dimension of length 1."""
    x = c.value(c.call.args[0])
    dim = c.argument(1, "dim") % (len(x.dims) + 1)
    origins = (*x.origins[:dim], frozenset(), *x.origins[dim:]) if x.static else ()
    return [replace(x, dims=(*x.dims[:dim], ONE, *x.dims[dim:]), origins=origins)]


@rule("squeeze")
def squeeze(c: Context) -> list[Value]:
    """Drops dimensions of length 1."""
    x = c.value(c.call.args[0])
    dims = c.argument(1, "dim")
    if dims is None:
        for dim in x.dims:
            c.space.require(dim, 2)
    chosen = (
        range(len(x.dims)) if dims is None else [d % len(x.dims) for d in ([dims] if isinstance(dims, int) else dims)]
    )
    return [_arranged(x, [d for d in range(len(x.dims)) if d not in chosen or c.space.size(x.dims[d]) != 1])]


@rule("expand")
def expand(c: Context) -> list[Value]:
    """`expand(x, sizes)`: a length of 1 becomes any other, as the code says."""
    x, sizes = c.value(c.call.args[0]), c.argument(1, "size")
    dims: list[Expression] = []
    origins = []
    offset = len(sizes) - len(x.dims)
    for i, size in enumerate(sizes):
        own = x.dims[i - offset] if i >= offset else ONE
        origins.append(x.origins[i - offset] if x.static and i >= offset else frozenset())
        repeated = c.space.size(own) == 1 and c.shape()[i] != 1
        dims.append(c.fresh(c.shape()[i]) if repeated else own)
        if size != -1 and c.shape()[i] != 1:
            c.literal(c.path(1, "size", i), dims[-1])
    return [replace(x, dims=tuple(dims), origins=tuple(origins) if x.static else ())]


@rule("repeat")
def repeat(c: Context) -> list[Value]:
    """`repeat(x, counts)`: the copies are the outer factor."""
    x, counts = c.value(c.call.args[0]), c.argument(1, "repeats")
    dims: list[Expression] = []
    offset = len(counts) - len(x.dims)
    for i, count in enumerate(counts):
        own = x.dims[i - offset] if i >= offset else ONE
        copies = c.fresh(count)
        if count != 1:
            c.literal(c.path(1, "repeats", i), copies)
        dims.append(own if count == 1 else c.space.resolve(Product((copies, own))))
    return [c.derived(dims, [x])]


@rule("repeat_interleave")
def repeat_interleave(c: Context) -> list[Value]:
    """`repeat_interleave(x, count, dim)`: the copies are the inner factor."""
    x, count, dim = c.value(c.call.args[0]), c.argument(1, "repeats"), c.argument(2, "dim")
    if not isinstance(count, int) or dim is None:
        return c.unknown()
    dim %= len(x.dims)
    copies = c.fresh(count)
    if count != 1:
        c.literal(c.path(1, "repeats"), copies)
    dims = [*x.dims]
    dims[dim] = c.space.resolve(Product((x.dims[dim], copies)))
    return [c.derived(dims, [x])]


@rule("cat", "concat", "concatenate")
def cat(c: Context) -> list[Value]:
    """`cat(tensors, dim)`: pieces side by side, all other lengths the same."""
    values = [v for v in (c.value(t) for t in c.argument(0, "tensors")) if len(v.dims) == len(c.shape())]
    dim = c.argument(1, "dim", 0) % len(c.shape())
    filled = [v.dims[dim] for v in values if c.space.size(v.dims[dim])]
    pieces = [piece if piece != ONE else c.space.single() for piece in filled]
    dims: list[Expression] = []
    for d in range(len(c.shape())):
        if d == dim:
            dims.append(concat([c.space.resolve(piece) for piece in pieces]))
            continue
        for other in values[1:]:
            c.unify(values[0].dims[d], other.dims[d])
        dims.append(values[0].dims[d])
    return [_mixed(c, dims, values)]


@rule("stack")
def stack(c: Context) -> list[Value]:
    """`stack(tensors, dim)`: a new dimension of positions."""
    values = [c.value(t) for t in c.argument(0, "tensors")]
    dim = c.argument(1, "dim", 0) % len(c.shape())
    own = list(values[0].dims)
    for other in values[1:]:
        for left, right in zip(own, other.dims, strict=True):
            c.unify(left, right)
    dims = [*own[:dim], c.fresh(len(values), "positions in a stack"), *own[dim:]]
    return [_mixed(c, dims, values)]


def _mixed(c: Context, dims: Sequence[Expression], values: Sequence[Value]) -> Value:
    """Static pieces joined with activations are carried along: a learned token, say."""
    if any(not value.static for value in values):
        for value in values:
            if value.static:
                c.join(value)
                c.meets_activation(value)
    return c.derived(dims, values)


@rule("split_with_sizes", "unsafe_split_with_sizes")
def split_with_sizes(c: Context) -> list[Value]:
    """`split_with_sizes(x, sizes, dim)`: pieces of the lengths that the code passes."""
    x, sizes = c.value(c.call.args[0]), c.argument(1, "split_sizes")
    dim = c.argument(2, "dim", 0) % len(x.dims)
    pieces = c.space.cut(x.dims[dim], sizes)
    for i, piece in enumerate(pieces):
        c.literal(c.path(1, "split_sizes", i), piece)
    return _pieces(c, x, dim, pieces)


@rule("split", "unsafe_split")
def split(c: Context) -> list[Value]:
    """`split(x, size, dim)`: pieces of one size are edited alike."""
    x, size = c.value(c.call.args[0]), c.argument(1, "split_size")
    if not isinstance(size, int):
        return list(split_with_sizes(c))
    dim = c.argument(2, "dim", 0) % len(x.dims)
    pieces = _equal_pieces(c, x, dim)
    c.literal(c.path(1, "split_size"), pieces[0])
    return _pieces(c, x, dim, pieces)


@rule("chunk", "unsafe_chunk", "tensor_split")
def chunk(c: Context) -> list[Value]:
    """`chunk(x, chunks, dim)`: so many pieces, of one size."""
    x = c.value(c.call.args[0])
    dim = c.argument(2, "dim", 0) % len(x.dims)
    return _pieces(c, x, dim, _equal_pieces(c, x, dim))


def _equal_pieces(c: Context, x: Value, dim: int) -> list[Expression]:
    sizes = [c.shape(output)[dim] for output in range(len(c.call.outputs))]
    pieces = c.space.cut(x.dims[dim], sizes)
    for piece, size in zip(pieces, sizes, strict=True):
        if size == sizes[0]:
            c.unify(pieces[0], piece)
        else:
            c.positional(x.dims[dim], "it is split into unequal pieces")
    return pieces


def _pieces(c: Context, x: Value, dim: int, pieces: Sequence[Expression]) -> list[Value]:
    return [c.derived([*x.dims[:dim], _broadcastable(c, piece), *x.dims[dim + 1 :]], [x]) for piece in pieces]


def _broadcastable(c: Context, piece: Expression) -> Expression:
    return ONE if c.space.size(piece) == 1 else piece


@rule("slice")
def slices(c: Context) -> list[Value]:
    """`slice(x, dim, start, end, step)`."""
    x = c.value(c.call.args[0])
    dim = c.argument(1, "dim", 0) % len(x.dims)
    size = c.space.size(x.dims[dim])
    start, end, step = c.argument(2, "start"), c.argument(3, "end"), c.argument(4, "step", 1)
    first = min(size, max(0, (start or 0) + (size if (start or 0) < 0 else 0)))
    length = c.shape()[dim]
    if length == size:
        return [x]
    if step != 1 or length == 0:
        c.positional(x.dims[dim], "its units are picked by position")
        return [c.derived([*x.dims[:dim], c.space.axis(length, "positions"), *x.dims[dim + 1 :]], [x])]
    before, piece, _after = c.space.cut(x.dims[dim], [first, length, size - first - length])
    if start is not None and start > 0:
        c.literal(c.path(2, "start"), before)
    if end is not None and 0 < end < size:
        c.literal(c.path(3, "end"), concat([before, piece]))
    return _pieces(c, x, dim, [piece])


@rule("unfold")
def unfold(c: Context) -> list[Value]:
    """`x.unfold(dim, size, step)`: sliding windows over positions."""
    x = c.value(c.call.args[0])
    dim = c.argument(1, "dimension") % len(x.dims)
    c.positional(x.dims[dim], "positions")
    windows, width = c.positions([c.shape()[dim], c.shape()[-1]])
    return [c.derived([*x.dims[:dim], windows, *x.dims[dim + 1 :], width], [x])]
