"""Contractions: two tensors are multiplied and summed over shared lengths (linear, matmul, bmm, addmm, einsum, ...)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import ONE, Expression
from meristem.axes.map import Coupling, Role
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value


def contract(c: Context, a: Value, b: Value, over: Iterable[tuple[int, int]]) -> None:
    """State what a contraction of dimension `i` of `a` with dimension `j` of `b`, for each (i, j), means for both.

    The remaining dimensions of a weight produce; dimensions that the caller unifies as batch dimensions must be
    excluded by the caller through `produces`.
    """
    for i, j in over:
        c.unify(a.dims[i], b.dims[j])
        if a.static and b.static:
            _contract_weights(c, a, i, b, j)
        elif a.static or b.static:
            weight, dim = (a, i) if a.static else (b, j)
            c.mark(weight, dim, Role.READS)
            if not weight.keeps_zero:
                c.couple(weight.dims[dim], Coupling.STANDARDIZED)
        else:
            c.couple(a.dims[i], Coupling.BILINEAR)
    for one, other in ((a, b), (b, a)):
        if one.static and not other.static:
            c.meets_activation(one)


def _contract_weights(c: Context, a: Value, i: int, b: Value, j: int) -> None:
    """A weight computed from weights (a low-rank factorization, a spectral norm): one reads, one produces."""
    reader, dim, writer, other = (b, j, a, i) if a.constant else (a, i, b, j)
    c.mark(reader, dim, Role.READS)
    if writer.constant or reader.constant:
        c.carry(writer if writer.constant else reader, 0.0)
    else:
        c.mark(writer, other, Role.PRODUCES)


def produces(c: Context, weight: Value, dims: Iterable[int]) -> None:
    """These dimensions of a static operand produce the units of the result."""
    for dim in dims:
        c.mark(weight, dim, Role.PRODUCES)


def add_bias(c: Context, dims: Sequence[Expression], bias: Value | None) -> None:
    """A bias along the last dimensions."""
    if bias is not None:
        broadcast(c, [Value(tuple(dims)), bias])
        c.carry(bias, 0.0)
        c.meets_activation(bias)


@rule("linear")
def linear(c: Context) -> list[Value]:
    """`linear(x, weight, bias)`: weight (out, in) reads its last dimension and produces the others."""
    x, weight = c.value(c.argument(0, "input")), c.value(c.argument(1, "weight"))
    bias = c.optional(c.argument(2, "bias"))
    contract(c, x, weight, [(-1, -1)])
    produces(c, weight, range(len(weight.dims) - 1))
    dims = [*x.dims[:-1], *weight.dims[:-1]]
    add_bias(c, dims, bias)
    c.fact("in_features", x.dims[-1])
    for produced in weight.dims[:-1]:
        c.fact("out_features", produced)
        c.kind(produced, "features")
    c.operations(*dims, x.dims[-1])
    return [c.derived(dims, [x, weight, *([bias] if bias else [])], nonlinear=[x.dims[-1]])]


def multiply(c: Context, a: Value, b: Value) -> Value:
    """Matrix multiplication with broadcast leading dimensions."""
    i, j = -1, -min(2, len(b.dims))
    contract(c, a, b, [(i, j)])
    lead_a, lead_b = a.dims[:-2], b.dims[:-2]
    lead = broadcast(c, [Value(lead_a), Value(lead_b)])
    rows = a.dims[-2:-1]
    columns = b.dims[-1:] if j == -2 else ()
    produces(c, a, range(len(a.dims) - 1))
    produces(c, b, [d for d in range(len(b.dims)) if d != len(b.dims) + j])
    dims = [*lead, *rows, *columns]
    if b.static and columns:
        c.kind(columns[0], "features")
    c.operations(*dims, a.dims[i])
    return c.derived(dims, [a, b], nonlinear=[a.dims[i]])


@rule("_grouped_mm")
def grouped(c: Context) -> list[Value]:
    """`_grouped_mm(x, weights, offsets)`: x (rows, in) is cut into groups of rows, weights (groups, in, out) reads and
    produces, one matrix for each group."""
    x, weights = c.value(c.argument(0, "self")), c.value(c.argument(1, "mat2"))
    if (len(x.dims), len(weights.dims)) != (2, 3) or c.argument(3, "bias") is not None:
        return c.unknown()
    c.positional(x.dims[0], "its units are cut into groups by position")
    c.positional(weights.dims[0], "its units are picked by position")
    contract(c, x, weights, [(-1, 1)])
    produces(c, weights, [2])
    c.kind(weights.dims[2], "features")
    dims = [x.dims[0], weights.dims[2]]
    c.operations(*dims, x.dims[1])
    return [c.derived(dims, [x, weights], nonlinear=[x.dims[1]])]


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner")
def matmul(c: Context) -> list[Value]:
    """Products of two tensors, batched or not."""
    return [multiply(c, c.value(c.argument(0, "self")), c.value(c.argument(1, "other")))]


@rule("addmm", "addbmm", "baddbmm", "addmv")
def addmm(c: Context) -> list[Value]:
    """`bias + a @ b`, batched or not."""
    bias, a, b = (c.value(c.argument(i, n)) for i, n in enumerate(("self", "mat1", "mat2")))
    product = multiply(c, a, b)
    dims = broadcast(c, [product, bias])
    c.carry(bias, 0.0)
    if not product.static:
        c.meets_activation(bias)
    return [c.derived(dims, [a, b, bias], nonlinear=[a.dims[-1]])]


@rule("bilinear")
def bilinear(c: Context) -> list[Value]:
    """`bilinear(x1, x2, weight, bias)`: weight (out, in1, in2) reads both inputs."""
    first, second, weight = (c.value(c.argument(i, n)) for i, n in enumerate(("input1", "input2", "weight")))
    bias = c.optional(c.argument(3, "bias"))
    for x, dim, name in ((first, 1, "in1_features"), (second, 2, "in2_features")):
        contract(c, x, weight, [(-1, dim)])
        c.fact(name, weight.dims[dim])
    produces(c, weight, [0])
    c.fact("out_features", weight.dims[0])
    c.kind(weight.dims[0], "features")
    lead = broadcast(c, [Value(first.dims[:-1]), Value(second.dims[:-1])])
    dims = [*lead, weight.dims[0]]
    add_bias(c, dims, bias)
    c.operations(*lead, *weight.dims)
    return [c.derived(dims, [first, second, weight])]


@rule("outer", "ger")
def outer(c: Context) -> list[Value]:
    """Every entry of one vector with every entry of another."""
    a, b = c.value(c.argument(0, "self")), c.value(c.argument(1, "vec2"))
    return [c.derived([*a.dims, *b.dims], [a, b])]


@rule("einsum")
def einsum(c: Context) -> list[Value]:
    """Letters name lengths: equal letters are one length, letters that the result lacks are contracted."""
    equation, operands = c.argument(0, "equation"), [c.value(t) for t in c.argument(1, "tensors")]
    inputs, output = letters_of(equation, [len(v.dims) for v in operands])
    lengths: dict[str, Expression] = {}
    for letters, value in zip(inputs, operands, strict=True):
        for letter, dim in zip(letters, value.dims, strict=True):
            if letter not in lengths or lengths[letter] == ONE:
                lengths[letter] = dim
            elif dim != ONE:
                c.unify(lengths[letter], dim)
    for letter in lengths:
        holders = [(v, names.index(letter)) for names, v in zip(inputs, operands, strict=True) if letter in names]
        _einsum_roles(c, holders, contracted=letter not in output)
    weights = [v for v in operands if v.static]
    if len(weights) < len(operands):
        for weight in weights:
            c.meets_activation(weight)
    c.operations(*lengths.values())
    summed = [length for letter, length in lengths.items() if letter not in output]
    return [c.derived([lengths[letter] for letter in output], operands, nonlinear=summed)]


def _einsum_roles(c: Context, holders: list[tuple[Value, int]], contracted: bool) -> None:
    weights = [(v, d) for v, d in holders if v.static]
    activations = [(v, d) for v, d in holders if not v.static]
    if contracted and len(activations) > 1:
        c.couple(activations[0][0].dims[activations[0][1]], Coupling.BILINEAR)
    if contracted and len(holders) == 1:
        value, dim = holders[0]
        c.couple(value.dims[dim], Coupling.REDUCED)
    for value, dim in weights:
        if contracted:
            c.mark(value, dim, Role.READS)
            if not value.keeps_zero:
                c.couple(value.dims[dim], Coupling.STANDARDIZED)
        else:
            c.mark(value, dim, Role.CARRIES if activations else Role.PRODUCES)


def letters_of(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Letters of each operand and of the result; the dimensions of an ellipsis get names from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = []
    for term, rank in zip(left.split(","), ranks, strict=True):
        inputs.append(_expand(term, rank - len(term.replace("...", ""))))
    if arrow:
        widest = max((sum(name.startswith(".") for name in names) for names in inputs), default=0)
        return inputs, _expand(right, widest)
    flat = [letter for names in inputs for letter in names]
    ellipsis = sorted({n for n in flat if n.startswith(".")}, key=lambda n: -int(n[1:]))
    return inputs, [*ellipsis, *sorted(n for n in set(flat) if flat.count(n) == 1 and not n.startswith("."))]


def _expand(term: str, extra: int) -> list[str]:
    before, dots, after = term.partition("...")
    return [*before, *(f".{i}" for i in range(extra, 0, -1) if dots), *after]
