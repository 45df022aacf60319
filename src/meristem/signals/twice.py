"""Kernels whose backward pass has a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """While it is entered, models run without PyTorch's fused attention and cuDNN's recurrent kernels, whose gradients
    cannot be differentiated. The forward pass has to be within it."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield
