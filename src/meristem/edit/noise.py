"""Uniform random numbers for newborns: growth draws as many as it makes weights."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**16
"""About so many numbers are drawn at once, so that they stay in the processor's cache."""


def draw_uniform(target: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """In place: numbers uniform between -bound and bound, in rows along the first dimension; the same on every device.

    Args:
        target: of floating point, with at least one dimension, on any device, in any memory order.
        bound: the largest absolute value.
        generator: on the CPU.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    width = max(1, target[:1].numel())
    rows = min(max(1, CHUNK // width), len(target))
    numbers = torch.empty(rows * width, dtype=dtype, device="cpu")
    for part in target.split(rows):
        drawn = numbers[: part.numel()].uniform_(-bound, bound, generator=generator)
        part.copy_(drawn.view(part.shape))
    return target
