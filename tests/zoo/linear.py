"""What the judge replaces in a model so that a pruned one can be compared with one whose entries are zeroed.

A norm divides by a statistic over units, and attention by the square root of a size: both change when units go, rightly
so. The judge takes them out of both sides of the comparison: norms keep only their affine part, attention one scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

attend = F.scaled_dot_product_attention
SCALE = 0.25


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int) -> Tensor:
    """`x * weight + bias` along one dimension (or along the last ones, where the weight has several)."""
    for operand, join in ((weight, torch.mul), (bias, torch.add)):
        if operand is not None:
            trailing = 0 if dim == -1 else x.ndim - 1 - dim
            x = join(x, operand.reshape(*operand.shape, *[1] * trailing))
    return x


def layer_norm(x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any):
    return affine(x, weight, bias, -1)


def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, *_: Any, **__: Any):
    return affine(x, weight, None, -1)


def group_norm(x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any):
    return affine(x, weight, bias, 1)


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return attend(query, key, value, *args, **{**kwargs, "scale": SCALE})


def written_out_norms(models: tuple[nn.Module, ...]) -> Iterator[Any]:
    """Modules that normalize in Python code of their own, over their last dimension, and then scale by `weight`."""
    for model in models:
        for module in model.modules():
            kind = type(module)
            if kind.__module__.startswith("transformers") and kind.__name__.endswith(("RMSNorm", "T5LayerNorm")):
                yield module


@contextmanager
def precise(*models: nn.Module) -> Iterator[None]:
    """Within this context norms that are written out, and compute in float32, keep the type of their input."""
    with ExitStack() as stack:
        for module in written_out_norms(models):
            eps: float = next(getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name))
            forward = lambda x, w=module.weight, eps=eps: w * x * torch.rsqrt(x.pow(2).mean(-1, True) + eps)  # noqa: E731
            stack.enter_context(patch.object(module, "forward", forward))
        yield


@contextmanager
def linear(*models: nn.Module) -> Iterator[None]:
    """Within this context norms that mix units do only their affine part and attention has a fixed scale."""
    with ExitStack() as stack:
        for namespace in (F, torch):
            for name, replacement in (("layer_norm", layer_norm), ("rms_norm", rms_norm), ("group_norm", group_norm)):
                stack.enter_context(patch.object(namespace, name, replacement))
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for module in written_out_norms(models):
            forward = lambda x, weight=module.weight: affine(x, weight, None, -1)  # noqa: E731
            stack.enter_context(patch.object(module, "forward", forward))
        yield
