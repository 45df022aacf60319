"""What newborns would make of what their layer reads, before they exist."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from meristem.axes.path import BatchNorm
from meristem.signals.batch import Arrival, Batch, width
from meristem.signals.convolve import forward


def kaiming(batch: Batch, count: int, generator: torch.Generator) -> Tensor:
    """Random fan-ins, biases too, uniform with Kaiming's standard deviation `sqrt(2 / fan-in)`.

    He et al. 2015, arXiv 1502.01852, equation 10.

    Args:
        batch: any batch of an axis that one weight produces.
        count: how many.
        generator: on the CPU.

    Returns:
        float64, shape (count, fan-in).
    """
    bound = math.sqrt(6 / batch.arrivals[0].producer.fan_in)
    shape = (count, width(batch.fan_in))
    return torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator).to(batch.device)


def pre_activations(batch: Batch, arrival: Arrival, incoming: Tensor) -> Tensor:
    """`incoming` applied to what the producer of one path read; differentiable.

    Args:
        batch: of an axis that one weight produces.
        arrival: one of its paths.
        incoming: shape (newborns, fan-in).

    Returns:
        shape (batch, newborns, *positions), in float32 or better.
    """
    incoming, producer = incoming.to(batch.dtype), arrival.producer
    if batch.fan_in[0].bias is None:
        incoming = pad(incoming, (0, 1))
    weight = incoming[:, :-1].reshape(-1, producer.ins, *producer.kernel)
    return forward(producer, arrival.x.to(batch.dtype), weight, incoming[:, -1])


def moments_of(batch: Batch, incoming: Tensor) -> Tensor:
    """Number, sum and sum of squares of newborns' pre-activations, over all calls of what produces the axis.

    Returns:
        float64, shape (3, newborns).
    """
    found = [pre_activations(batch, a, incoming).movedim(1, -1).flatten(0, -2) for a in batch.producers]
    z = torch.cat(found)
    return torch.stack([torch.ones_like(z).sum(0), z.sum(0), z.square().sum(0)]).double()


def activations(arrival: Arrival, z: Tensor) -> Tensor:
    """What the consumer of a path would read of newborns; differentiable.

    Batch normalization treats them as it treats newborns in training: normalised by the batch, scale 1, shift 0.

    Args:
        arrival: the path.
        z: their pre-activations, shape (batch, newborns, *positions).

    Returns:
        shape (batch, newborns, *other positions).
    """
    for step in arrival.path.steps:
        if isinstance(step, BatchNorm):
            others = [dim for dim in range(z.dim()) if dim != 1]
            variance, mean = torch.var_mean(z, others, correction=0, keepdim=True)
            z = (z - mean) / (variance + step.eps).sqrt()
        else:
            z = step(z)
    return z
