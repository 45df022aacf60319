"""Statistics are computed in full precision whatever the surrounding training step runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and float32 products that are not rounded to TF32 or bfloat16 on the way.

    The rounding is a process-wide setting of PyTorch; it is put back on leaving.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_unrounded())
        yield


def wide(*tensors: Tensor) -> torch.dtype:
    """The dtype in which statistics of these tensors are kept: float32 or better."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


@contextmanager
def _unrounded() -> Iterator[None]:
    old = [getattr(owner, name) for owner, name, _ in _SETTINGS]
    try:
        for owner, name, value in _SETTINGS:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(_SETTINGS, old, strict=True):
            setattr(owner, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    """Where PyTorch keeps the precision of float32 products: owner, attribute, the value that does not round."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    convolution = getattr(cudnn, "conv", None)
    if convolution is None:  # before PyTorch 2.9
        return [(cudnn, "allow_tf32", False), (cuda.matmul, "allow_tf32", False)]
    owners = (convolution, cuda.matmul, getattr(mkldnn, "conv", None), getattr(mkldnn, "matmul", None))
    return [(owner, "fp32_precision", "ieee") for owner in owners if owner is not None]


_SETTINGS = _settings()
