"""Reductions, softmax and ordering along a dimension."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import ONE
from meristem.axes.map import Coupling
from meristem.axes.rules.pointwise import pointwise
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value

_POSITIONS = {"aten.argmax": 0, "aten.argmin": 0, "aten.max": 1, "aten.min": 1, "aten.median": 1}
"""Which output of a reduction holds positions."""

_LINEAR = {"aten.sum", "aten.mean"}


def _normalize(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(rank))
    return [d % rank if rank else 0 for d in ([dims] if isinstance(dims, int) else dims)]


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "norm", "linalg_norm",
    "linalg_vector_norm", "logsumexp", "all", "any", "nansum", "nanmean", "aminmax", "median", "argmax", "argmin",
    "count_nonzero",
)  # fmt: skip
def reduction(c: Context) -> list[Value]:
    """Sum, mean, norm, ... over some dimensions: which ones shows in the arguments, kept or dropped in the shape."""
    values = c.tensors()
    x = values[0]
    if len(values) > 1:  # elementwise max and min of two tensors
        return list(pointwise(c))
    position = 2 if c.call.name in ("aten.norm", "aten.linalg_vector_norm", "aten.linalg_norm") else 1
    dims = c.argument(position, "dim")
    if isinstance(dims, bool) or not isinstance(dims, (int, list, tuple)):  # e.g. var(x, unbiased)
        dims = None
    reduced = _normalize(dims, len(x.dims))
    coupling = Coupling.STANDARDIZED if x.static else Coupling.REDUCED
    for dim in reduced:
        c.couple(x.dims[dim], coupling)
        output = _POSITIONS.get(c.call.name, len(c.call.outputs))
        if output < len(c.call.outputs) and c.used(output):
            c.positional(x.dims[dim], "positions along it are returned")
    kept = len(c.shape()) == len(x.dims)
    result = [ONE if i in reduced else dim for i, dim in enumerate(x.dims) if kept or i not in reduced]
    mixed = [dim for i, dim in enumerate(x.dims) if i in reduced or c.call.name not in _LINEAR]
    value = replace(c.derived(result, [x], keeps_zero=x.keeps_zero, nonlinear=mixed), entries=frozenset())
    return [value for _ in c.call.outputs]


@rule("mse_loss", "binary_cross_entropy", "smooth_l1_loss", "huber_loss")
def elementwise_loss(c: Context) -> list[Value]:
    """An elementwise comparison, perhaps reduced to one number."""
    values = c.tensors()
    dims = broadcast(c, values)
    for dim in dims:
        c.couple(dim, Coupling.REDUCED)
    return [c.derived(dims if c.shape() else [], values, keeps_zero=False)]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin")
def softmax(c: Context) -> list[Value]:
    """`softmax(x, dim)`: every unit competes with every other along `dim`."""
    x = c.value(c.call.args[0])
    if x.dims:
        c.couple(x.dims[c.argument(1, "dim") % len(x.dims)], Coupling.SOFTMAX)
    return [c.derived(x.dims, [x], keeps_zero=False)]


@rule(
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "sort",
    "argsort",
    "topk",
    "flip",
    "kthvalue",
    "_fft_r2c",
    "_fft_c2r",
    "_fft_c2c",
)
def ordered(c: Context) -> list[Value]:
    """The order along a dimension matters, or single positions are picked."""
    x = c.value(c.call.args[0])
    names = {"aten.topk": 2, "aten.kthvalue": 2, "aten.sort": 1, "aten.argsort": 1}
    dims = c.argument(names.get(c.call.name, 1), "dim" if c.call.name != "aten.flip" else "dims", -1)
    if isinstance(dims, bool):
        dims = -1
    dims = _normalize(dims, len(x.dims))
    for dim in dims:
        c.positional(x.dims[dim], "its order matters")
    outputs = []
    for output in range(len(c.call.outputs)):
        sizes = c.shape(output)
        result = [c.space.axis(sizes[i], "positions") if i in dims else d for i, d in enumerate(x.dims)]
        outputs.append(c.derived(result, [x], keeps_zero=False))
    return outputs
