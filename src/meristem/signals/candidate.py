"""How the loss answers to newborn units between a producer and a consumer.

The producer reads x, the consumer's output has gradient delta. A newborn is a pair (incoming, outgoing): its
pre-activation is z = incoming * [x, 1], the consumer reads h = middle(z) of it, and consumer(h; outgoing) is what it
adds to the consumer's output. With the middle linearised at zero from above the derivative of the loss is bilinear,
`outgoing . M . incoming`, with M the candidate gradient: GradMax (Evci et al., ICLR 2022, arXiv 2201.05125) takes its
singular vectors, TINY (Verbockhaven et al. 2024, arXiv 2405.19816) those of `M S^-1/2`. Every function here is exact at
padded borders, where the auxiliary convolution that is published for GradMax is not: a consumer pads activations with
zero, that convolution pads inputs.

Arguments that all functions share:
    x: the producer's input, delta: the gradient of the loss with respect to the consumer's output; ([batch,] channels,
        *spatial) for convolutions, (..., channels) for linear maps. For a consumer of flattened maps pass
        `flattened(...)` as consumer and delta with spatial sizes 1.
    producer, consumer: how they contract; outs of the producer and ins of the consumer (the incumbents) do not matter.
    middle: see `Middle`; None is the identity. Between linear maps units stand in the second dimension of (N, units).
        Or what `linearise` made of it, which then is not done again.
    incoming: weights and bias of r newborns, shape (r, F + 1), F the producer's fan-in ordered as its weight's
        (in, *kernel), the bias last.
    outgoing: shape (r, outs, *kernel) of the consumer; may be flattened to two dimensions.

All compute in float32 or better, without autocast or gradients, on the device of x, and raise `EditError` where the
producer or consumer has groups, where shapes do not fit together, and where the middle mixes samples or units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from meristem.errors import EditError
from meristem.signals.contraction import Contraction, rows
from meristem.signals.convolve import forward, input_gradient, weight_gradient
from meristem.signals.correlation import Lags, correlate, split
from meristem.signals.linearised import Linearised, Middle, linearise
from meristem.signals.precision import precise, wide

_BLOCK = 32
"""How many columns of the candidate gradient are computed at once where they are computed one by one."""

_ALIGNED = 16
"""Rows of M begin at multiples of so many entries: products are written faster to such places."""


def fan_in_gradient(
    x: Tensor,
    delta: Tensor,
    outgoing: Tensor,
    producer: Contraction,
    consumer: Contraction,
    middle: Middle | Linearised | None = None,
) -> Tensor:
    """Gradient of the loss with respect to the fan-in of newborns with this fan-out and zero fan-in: `outgoing @ M`.

    Returns:
        shape (r, F + 1).
    """
    x, delta = _checked(x, delta, producer, consumer)
    with precise(x.device):
        weight = _outgoing(outgoing, consumer, wide(x, delta))
        units = weight.shape[1]
        between = _between(x, delta, producer, consumer, middle)
        total = weight.new_zeros(units, producer.fan_in + 1)
        for a, d in split(x, delta, entries=units * _larger(between)):
            z = between.pull(input_gradient(consumer, d, weight, between.outer))
            total[:, :-1] += weight_gradient(producer, a, z).flatten(1)
            total[:, -1] += z.transpose(0, 1).flatten(1).sum(1)
    return total


def fan_out_gradient(
    x: Tensor,
    delta: Tensor,
    incoming: Tensor,
    producer: Contraction,
    consumer: Contraction,
    middle: Middle | Linearised | None = None,
) -> Tensor:
    """Gradient of the loss with respect to the fan-out of newborns with this fan-in and zero fan-out, linearised.

    Returns:
        shape (r, outs, *kernel) of the consumer: `(M @ incoming.T).T`.
    """
    x, delta = _checked(x, delta, producer, consumer)
    with precise(x.device):
        weight, bias = _incoming(incoming, producer, wide(x, delta))
        between = _between(x, delta, producer, consumer, middle)
        total = weight.new_zeros(consumer.outs, len(weight), *consumer.kernel)
        for a, d in split(x, delta, entries=len(weight) * _larger(between)):
            total += weight_gradient(consumer, between.push(forward(producer, a, weight, bias)), d)
    return total.transpose(0, 1)


def candidate_gradient(
    x: Tensor, delta: Tensor, producer: Contraction, consumer: Contraction, middle: Middle | Linearised | None = None
) -> Tensor:
    """The whole of M, the derivative of the loss in `outgoing . incoming^T`.

    Where the middle only scales and nothing is transposed it comes from one product of maps for each distance between a
    tap of the consumer and one of the producer; else its columns are computed one by one.

    Returns:
        shape (outs * prod(kernel) of the consumer, F + 1).
    """
    a, d = _checked(x, delta, producer, consumer)
    with precise(a.device):
        between = _between(a, d, producer, consumer, middle)
        aligned = len(producer.kernel) == len(consumer.kernel)
        if between.slope is not None and aligned and not (producer.transposed or consumer.transposed):
            return _correlated(a, d, producer, consumer, between.inner).mul_(between.slope)
    units = torch.eye(producer.fan_in + 1, dtype=wide(x, delta), device=x.device)
    columns = [fan_out_gradient(x, delta, block, producer, consumer, middle) for block in units.split(_BLOCK)]
    return torch.cat(columns).flatten(1).T.contiguous()


def response(
    x: Tensor,
    delta: Tensor,
    incoming: Tensor,
    outgoing: Tensor,
    producer: Contraction,
    consumer: Contraction,
    middle: Middle | Linearised | None = None,
) -> Tensor:
    """Derivative of the loss in a common factor on each newborn's fan-out, at zero, through the true middle.

    Returns:
        shape (2, r): of newborns with this fan-in, and with its negative.
    """
    x, delta = _checked(x, delta, producer, consumer)
    with precise(x.device):
        weight, bias = _incoming(incoming, producer, wide(x, delta))
        outgoing = _outgoing(outgoing, consumer, weight.dtype)
        between = _between(x, delta, producer, consumer, middle)
        total = weight.new_zeros(2, len(weight))
        for a, d in split(x, delta, entries=len(weight) * _larger(between)):
            z, wanted = forward(producer, a, weight, bias), input_gradient(consumer, d, outgoing, between.outer)
            for sums, read in zip(total, (z.clone(), -z), strict=True):
                sums += (between.function(read) * wanted).transpose(0, 1).flatten(1).sum(1)
    return total


def _correlated(
    x: Tensor, delta: Tensor, producer: Contraction, consumer: Contraction, hidden: Sequence[int]
) -> Tensor:
    """M for the identity in between: with delta's positions p, tap b of the consumer sees the newborn at
    q = p * s2 - p2 + b * d2, where it has one, and tap a of the producer x at q * s1 - p1 + a * d1."""
    lags = []
    for dim, (size, length) in enumerate(zip(hidden, delta.shape[2:], strict=True)):
        s1, p1, d1 = producer.stride[dim], producer.padding[dim], producer.dilation[dim]
        s2, p2, d2 = consumer.stride[dim], consumer.padding[dim], consumer.dilation[dim]
        spacing = math.gcd(d2 * s1, d1)
        starts = [p2 - b * d2 for b in range(consumer.kernel[dim])]  # of p * s2, for which q is 0
        counted = tuple((max(0, -(-start // s2)), min(length, -(-(start + size) // s2))) for start in starts)
        left = tuple(b * d2 * s1 // spacing for b in range(consumer.kernel[dim]))
        right = tuple(a * d1 // spacing for a in range(producer.kernel[dim]))
        lags.append(Lags(counted, left, right, s1 * s2, -p2 * s1 - p1, spacing))
    sums = delta.sum(0, dtype=wide(x, delta))
    for lag, length in zip(lags, delta.shape[2:], strict=True):
        positions = torch.arange(length)
        counts = torch.stack([(low <= positions) & (positions < high) for low, high in lag.counted])
        sums = sums.movedim(1, -1) @ counts.to(sums).T  # the dimension goes, its taps come last
    width = producer.fan_in + 1
    matrix = sums.new_empty(sums.numel(), -(-width // _ALIGNED) * _ALIGNED)[:, :width]
    matrix[:, -1] = sums.flatten()
    if lags:
        found = correlate(delta, x, lags)
        taps = range(2, found.dim())
        matrix[:, :-1] = found.permute(0, *taps[::2], 1, *taps[1::2]).reshape(len(matrix), -1)
    else:
        for number, (d, a) in enumerate(split(delta, x)):
            matrix[:, :-1].addmm_(d.T, a, beta=min(number, 1))
    return matrix


def _checked(x: Tensor, delta: Tensor, producer: Contraction, consumer: Contraction) -> tuple[Tensor, Tensor]:
    for name, c in (("producer", producer), ("consumer", consumer)):
        if c.groups != 1:
            raise EditError(
                f"expected a {name} without groups, got {c.groups} groups, of which a newborn would be one; use a "
                "method that needs no candidate gradient"
            )
    x, delta = rows(x, producer), rows(delta, consumer)
    if x.shape[1] != producer.ins or delta.shape[1] != consumer.outs or len(x) != len(delta):
        raise EditError(
            f"expected x with {producer.ins} and delta with {consumer.outs} channels and equally many samples, got "
            f"{tuple(x.shape)} and {tuple(delta.shape)}"
        )
    return x, delta


def _between(
    x: Tensor, delta: Tensor, producer: Contraction, consumer: Contraction, middle: Middle | Linearised | None
) -> Linearised:
    between = middle
    if not isinstance(between, Linearised):
        like = torch.empty(0, dtype=wide(x, delta), device=x.device)
        between = linearise(between, producer.outputs(x.shape[2:]), like)
    read = between.outer
    if len(read) != len(consumer.kernel) or consumer.outputs(read) != tuple(delta.shape[2:]):
        raise EditError(
            f"expected delta of the spatial size that the consumer makes of {read}, got {tuple(delta.shape[2:])} with "
            f"{consumer}; if it reads flattened maps pass flattened(consumer, {read}) and as many dimensions of delta"
        )
    return between


def _larger(between: Linearised) -> int:
    """How many entries one unit has in one sample, at most."""
    return max(math.prod(between.inner), math.prod(between.outer))


def _incoming(incoming: Tensor, producer: Contraction, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if incoming.dim() != 2 or incoming.shape[1] != producer.fan_in + 1:
        raise EditError(f"expected incoming of shape (r, {producer.fan_in + 1}), got {tuple(incoming.shape)}")
    incoming = incoming.to(dtype)
    return incoming[:, :-1].reshape(-1, producer.ins, *producer.kernel), incoming[:, -1]


def _outgoing(outgoing: Tensor, consumer: Contraction, dtype: torch.dtype) -> Tensor:
    """The consumer's weight, in the layout (outs, r, *kernel)."""
    shape = (consumer.outs, *consumer.kernel)
    if outgoing.dim() < 2 or outgoing[:1].numel() not in (0, math.prod(shape)):
        raise EditError(f"expected outgoing of shape (r, {', '.join(map(str, shape))}), got {tuple(outgoing.shape)}")
    return outgoing.to(dtype).reshape(-1, *shape).transpose(0, 1)
