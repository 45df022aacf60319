"""A second derivative for functions that have none: kinks are rounded, values and slopes stay what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Bends = tuple[tuple[float, float], ...]
"""Where a piecewise linear function bends, and by how much its slope rises there: (point, rise)."""


class RoundedKinks(TorchFunctionMode):
    """While it is active, piecewise linear activation functions have the second derivative of a sum of softplus.

    A function whose slope rises by c at t gets `c s''(z - t)` with `s(z) = log(1 + exp(beta z)) / beta`. Values and
    first derivatives are untouched. Known: relu, relu6, leaky_relu, hardtanh, clamp with numbers, and abs.

    Args:
        beta: how sharp the rounded kinks are.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reader = _READERS.get(func)
        if reader is None or not args or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        base, bends, inplace = reader(*args[1:], **kwargs)
        if not inplace:
            return _Bent.apply(args[0], base, bends, self._beta, lambda z: func(z, *args[1:], **kwargs))
        before = args[0].clone()
        return args[0].copy_(
            _Bent.apply(before, base, bends, self._beta, lambda z: func(z.clone(), *args[1:], **kwargs))
        )


class _Bent(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, base: float, bends: Bends, beta: float, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.settings = base, bends, beta
        return function(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (z,) = ctx.saved_tensors
        return gradients[0] * _Slope.apply(z, *ctx.settings), None, None, None, None


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, base: float, bends: Bends, beta: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.settings = bends, beta
        return base + sum((rise * (z > point).to(z) for point, rise in bends), torch.zeros_like(z))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (z,) = ctx.saved_tensors
        bends, beta = ctx.settings
        total = torch.zeros_like(z)
        for point, rise in bends:
            share = torch.sigmoid(beta * (z - point))
            total = total + rise * beta * share * (1 - share)
        return gradients[0] * total, None, None, None


Reader = Callable[..., tuple[float, Bends, bool]]
"""From the arguments after the first: the slope at minus infinity, the bends, whether the argument is overwritten."""


def _between(low: float | None, high: float | None) -> tuple[float, Bends]:
    bends = (*(((low, 1.0),) if low is not None else ()), *(((high, -1.0),) if high is not None else ()))
    return (1.0 if low is None else 0.0), bends


def _clamped(low: float | None = None, high: float | None = None, **kwargs: Any) -> tuple[float, Bends, bool]:
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    numbers = [x if isinstance(x, (int, float)) and math.isfinite(x) else None for x in (low, high)]
    return *_between(*numbers), False


def _rectified(inplace: bool = False) -> tuple[float, Bends, bool]:
    return 0.0, ((0.0, 1.0),), inplace


def _leaky(negative_slope: float = 0.01, inplace: bool = False) -> tuple[float, Bends, bool]:
    return negative_slope, ((0.0, 1.0 - negative_slope),), inplace


def _hard(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> tuple[float, Bends, bool]:
    return *_between(min_val, max_val), inplace


_READERS: Mapping[Any, Reader] = {
    functional.relu: _rectified,
    torch.relu: _rectified,
    Tensor.relu: _rectified,
    torch.relu_: lambda: _rectified(True),
    Tensor.relu_: lambda: _rectified(True),
    functional.leaky_relu: _leaky,
    functional.hardtanh: _hard,
    functional.relu6: lambda inplace=False: (*_between(0.0, 6.0), inplace),
    torch.clamp: _clamped,
    Tensor.clamp: _clamped,
    torch.abs: lambda: (-1.0, ((0.0, 2.0),), False),
    Tensor.abs: lambda: (-1.0, ((0.0, 2.0),), False),
}
