"""The second moment of what a weight reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from meristem.signals.contraction import Contraction, rows
from meristem.signals.correlation import Lags, correlate, split
from meristem.signals.precision import precise, wide

_BLOCK = 64
"""Rows of a product at once, of which what lies left of the diagonal is left out."""


def second_moment(x: Tensor, contraction: Contraction) -> tuple[Tensor, int]:
    """Sum over samples and output positions of `u u^T`, u = (what one output position reads, 1).

    The matrix S of TINY (Verbockhaven et al. 2024, arXiv 2405.19816), not divided by the number of samples. What is
    read is ordered as the weight's (in / groups, *kernel); padding reads zero, and so do taps of a transposed
    convolution that reach no input. Exact for every stride, padding, dilation and group. Where the stride is 1 nothing
    is unfolded (see `correlation`); a transposed convolution is a convolution with stride 1 of its input with zeros in
    between, which costs as much as the larger image. Other strides form patches, a few samples at a time.

    Args:
        x: the input of the call: (..., ins) for a linear map, ([batch,] ins, *spatial) for a convolution.
        contraction: how the call contracts it.

    Returns:
        the sum, exactly symmetric, shape (fan_in + 1, fan_in + 1), or (groups, fan_in + 1, fan_in + 1) if groups > 1,
        float32 or better, on the device of x; and the number of (sample, output position) pairs. The last column
        divided by that number is the mean of u.
    """
    c, x = contraction, rows(x, contraction)
    with precise(x.device):
        moment = x.new_empty(c.groups, c.fan_in + 1, c.fan_in + 1, dtype=wide(x))
        if c.kernel:
            strided = not c.transposed and any(step > 1 for step in c.stride)
            half = _unfolded(x, c) if strided else _correlated(x, c)
            torch.add(half, half.mT, out=moment[:, :-1, :-1])
        else:
            gram(x, moment[0, :-1, :-1])
        count = x.shape[0] * math.prod(c.outputs(x.shape[2:]))
        moment[:, -1, :-1] = moment[:, :-1, -1] = _sums(x, c)
        moment[:, -1, -1] = count
    return (moment if c.groups > 1 else moment[0]), count


def gram(x: Tensor, products: Tensor) -> None:
    """In place: `x.T @ x` of (samples, entries), block row by block row from the diagonal on, the rest their mirror."""
    x = x.to(products.dtype)
    for start in range(0, x.shape[1], _BLOCK):
        stop = start + _BLOCK
        torch.mm(x[:, start:stop].T, x[:, start:], out=products[start:stop, start:])
        square = products[start:stop, start:stop]
        square.copy_((square + square.T) / 2)
        products[stop:, start:stop] = products[start:stop, stop:].T


def _correlated(x: Tensor, c: Contraction) -> Tensor:
    """Half of the products, the rest is their transpose: shape (groups, fan_in, fan_in)."""
    starts = [-padding for padding in c.padding]
    lengths = c.outputs(x.shape[2:])
    if c.transposed:
        starts = [p - d * (k - 1) for p, d, k in zip(c.padding, c.dilation, c.kernel, strict=True)]
        x = _spread(x, c.stride)
    lags: list[Lags] = []
    for k, d, start, length, size in zip(c.kernel, c.dilation, starts, lengths, x.shape[2:], strict=True):
        counted = tuple((max(0, start + a * d), min(size, start + a * d + length)) for a in range(k))
        center = k - 1 if lags else 0  # along the first dimension only lags from 0 on: the others are their mirror
        left = tuple(center - a for a in range(k))
        lags.append(Lags(counted, left, tuple(range(k)), first=-d * center, spacing=d))
    found = correlate(x, x, lags, c.groups)
    if lags:
        found.diagonal(dim1=2, dim2=3).mul_(0.5)
    else:
        found.mul_(0.5)
    if c.transposed:
        found = found.flip(tuple(range(2, found.dim())))
    found = found.unflatten(0, (c.groups, -1))
    taps = range(3, found.dim())
    return found.permute(0, 1, *taps[::2], 2, *taps[1::2]).reshape(c.groups, c.fan_in, c.fan_in)


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """The map with stride - 1 zeros between neighbours."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    spread[(..., *(slice(None, None, step) for step in stride))] = x
    return spread


def _unfolded(x: Tensor, c: Contraction) -> Tensor:
    """Half of the products, from patches: shape (groups, fan_in, fan_in)."""
    n = len(c.kernel)
    total = torch.zeros(c.groups, c.fan_in, c.fan_in, dtype=wide(x), device=x.device)
    sides = [side for both in reversed(c.sides) for side in both]
    for (block,) in split(x, entries=c.groups * c.fan_in * math.prod(c.outputs(x.shape[2:]))):
        patches = functional.pad(block, sides).unflatten(1, (c.groups, -1))
        for dim, (k, d, step) in enumerate(zip(c.kernel, c.dilation, c.stride, strict=True), start=3):
            patches = patches.unfold(dim, d * (k - 1) + 1, step)[..., ::d]
        order = (1, 2, *range(3 + n, 3 + 2 * n), 0, *range(3, 3 + n))
        patches = patches.permute(order).reshape(c.groups, c.fan_in, -1)
        total.baddbmm_(patches, patches.mT, alpha=0.5)
    return total


def _sums(x: Tensor, c: Contraction) -> Tensor:
    """Sum over samples and positions of what is read: shape (groups, fan_in)."""
    total = x.sum(0, dtype=wide(x))
    lengths = c.outputs(x.shape[2:])
    for dim, (size, length) in enumerate(zip(x.shape[2:], lengths, strict=True)):
        total = total.movedim(1, -1) @ _read(c, dim, size, length).to(total).T  # its taps come last
    return total.reshape(c.groups, c.fan_in)


def _read(c: Contraction, dim: int, size: int, length: int) -> Tensor:
    """Whether an output reads each position of the input through each tap, along a dimension: shape (kernel, size)."""
    position, tap = torch.arange(size), torch.arange(c.kernel[dim])[:, None] * c.dilation[dim] - c.padding[dim]
    if c.transposed:
        output = position * c.stride[dim] + tap
        return (output >= 0) & (output < length)
    reach = position - tap
    return (reach % c.stride[dim] == 0) & (reach >= 0) & (reach < length * c.stride[dim])
