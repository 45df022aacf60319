"""Elementwise operators: lengths that meet are the same, broadcasting from the right."""

from __future__ import annotations

from dataclasses import replace

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import ONE, Expression
from meristem.axes.recorder import Ref
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Origin, Value

_QUOTIENTS = {"aten.div", "aten.true_divide"}
_SCALES = {"aten.mul", "aten.div", "aten.true_divide"}
_SHIFTS = {"aten.add", "aten.sub", "aten.rsub"}
_KEEP_ZERO = _SCALES | _SHIFTS | {
    "aten.abs", "aten.neg", "aten.relu", "aten.gelu", "aten.silu", "aten.tanh", "aten.sin", "aten.sign", "aten.sqrt",
    "aten.leaky_relu", "aten.elu", "aten.square", "aten._to_copy",
}  # fmt: skip

_EVERYWHERE = _KEEP_ZERO - {"aten.sqrt"} | {
    "aten.positive", "aten.clone", "aten.exp", "aten.sigmoid", "aten.log_sigmoid", "aten.softplus", "aten.mish",
    "aten.erf", "aten.hardtanh", "aten.hardswish", "aten.hardsigmoid", "aten.relu6", "aten.selu", "aten.celu",
    "aten.cos", "aten.atan", "aten.cosh", "aten.sinh", "aten.expm1", "aten.clamp", "aten.clamp_min",
    "aten.clamp_max", "aten.maximum", "aten.minimum", "aten.where", "aten.masked_fill", "aten.lerp", "aten.addcmul",
    "aten.round", "aten.floor", "aten.ceil", "aten.trunc",
}  # fmt: skip
"""What is finite, and has finite slopes, wherever its arguments are; of quotients, in what is divided."""

_LINEAR = _SHIFTS | {"aten.neg", "aten.positive", "aten._to_copy"}


@rule("pointwise", "rrelu", "polar", "normal")
def pointwise(c: Context) -> list[Value]:
    """Any elementwise operator: static operands are carried along by what they meet."""
    values = c.tensors()
    dims = broadcast(c, values)
    bent = _bent(c, values)
    if any(not value.static for value in values):
        for value in values if c.call.name in _SCALES else bent:  # a divisor has a neutral entry
            if value.static:
                c.carry(value, _neutral(c.call.name))
                c.meets_activation(value)
    elif any(not value.constant for value in values):
        for value in values:
            if value.constant and value.dims:
                c.carry(value, _neutral(c.call.name))
    values = bent
    keeps = c.call.name in _KEEP_ZERO and _zero_stays_zero(c, values)
    result = c.derived(dims, values, keeps_zero=keeps, nonlinear=_nonlinear(c, values, dims))
    if result.static and not result.constant:  # a mask is carried, the weight alone reads and produces
        weights = c.derived(dims, [value for value in values if not value.constant])
        origins = (own or every for own, every in zip(weights.origins, result.origins, strict=True))
        result = replace(result, origins=tuple(origins), plain=False)
    if result.static and c.call.name not in _SCALES:  # of a product one zero factor is enough
        result = replace(result, origins=_aligned(values, result))
    return [result for _ in c.call.outputs]


def _bent(c: Context, values: list[Value]) -> list[Value]:
    """The values, with a note of whose entries the operator may turn into something infinite."""
    name, power = c.call.name, c.argument(1, "exponent")
    whole = name == "aten.pow" and isinstance(power, (int, float)) and power >= 1 and float(power).is_integer()
    if whole or name in _EVERYWHERE - _QUOTIENTS or not c.recording.dtypes[c.call.outputs[0]].is_floating_point:
        return values
    divided = name in _QUOTIENTS and isinstance(c.call.args[0], Ref)
    return [v if divided and i == 0 else replace(v, bent=v.bent | v.entries) for i, v in enumerate(values)]


def _aligned(values: list[Value], result: Value) -> tuple[frozenset[Origin], ...]:
    """The origins of an elementwise result: those of every operand in the same place, counted from the right. A matrix
    and its own transpose come from both dimensions of one parameter."""
    found = []
    for back in range(len(result.dims), 0, -1):
        wide = result.dims[-back] != ONE
        held = [v for v in values if len(v.dims) >= back and v.origins and not (wide and v.dims[-back] == ONE)]
        weights = [v.origins[-back] for v in held if not v.constant]
        own = frozenset[Origin]().union(*weights)
        found.append(own or frozenset[Origin]().union(*(v.origins[-back] for v in held)))
    return tuple(found)


def _nonlinear(c: Context, values: list[Value], dims: list[Expression]) -> list[Expression]:
    """The lengths along which parameters are more than added or multiplied by numbers."""
    if c.call.name in _LINEAR:
        return []
    if c.call.name not in _SCALES:
        return dims
    found = []
    for back, dim in enumerate(reversed(dims), start=1):
        held = [not v.constant and len(v.dims) >= back and v.dims[-back] != ONE for v in values]
        divisor = c.call.name != "aten.mul" and held[1:] == [True]
        if sum(held) > 1 or divisor:
            found.append(dim)
    return found


def _neutral(name: str) -> float | None:
    return 1.0 if name in _SCALES else 0.0 if name in _SHIFTS else None


def _zero_stays_zero(c: Context, values: list[Value]) -> bool:
    """Whether 0 in every parameter gives 0: not if a number or a constant is added."""
    if c.call.name not in _SHIFTS:
        return True
    numbers = [a for a in c.call.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return not any(numbers) and not any(value.constant for value in values)


@rule(
    "dropout", "dropout1d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout",
    "to", "_to_copy", "type_as", "float", "half", "cpu", "cuda",
    "resolve_conj", "resolve_neg", "bernoulli", "fill", "zero", "uniform", "random", "exponential",
)  # fmt: skip
def same_shape(c: Context) -> list[Value]:
    """The first argument, perhaps with some entries changed; further outputs (masks) look like it."""
    x = c.value(c.call.args[0])
    return [x for _ in c.call.outputs]


@rule("copy")
def copy(c: Context) -> list[Value]:
    """`copy_(target, source)`: what is written takes the target's dimensions."""
    target, source = c.value(c.call.args[0]), c.value(c.call.args[1])
    dims = broadcast(c, [target, source])
    if target.static and not source.static:
        c.meets_activation(target)
    return [
        Value(
            tuple(dims), source.static and target.static, source.constant and target.constant, *_origin(target, source)
        )
    ]


def _origin(target: Value, source: Value) -> tuple[tuple[frozenset[tuple[str, int]], ...]]:
    return (target.origins if target.static and source.static else (),)


@rule("prelu")
def prelu(c: Context) -> list[Value]:
    """`prelu(x, weight)`: one slope per channel (dimension 1), or one for all."""
    x, weight = c.value(c.call.args[0]), c.value(c.call.args[1])
    if weight.dims and weight.dims[-1] != ONE and len(x.dims) > 1:
        c.unify(x.dims[1], weight.dims[-1])
        c.fact("num_parameters", x.dims[1])
    c.carry(weight, 0.25)
    return [c.derived(x.dims, [x])]


@rule("glu")
def glu(c: Context) -> list[Value]:
    """`glu(x, dim)`: the first half is multiplied by a gate from the second."""
    x, dim = c.value(c.call.args[0]), c.argument(1, "dim", -1) % len(c.value(c.call.args[0]).dims)
    half = c.space.size(x.dims[dim]) // 2
    first, second = c.space.cut(x.dims[dim], [half, half])
    c.unify(first, second)
    dims: list[Expression] = [*x.dims[:dim], first, *x.dims[dim + 1 :]]
    return [c.derived(dims, [x])]
