"""Tensors without values: shapes, types and devices that take no memory, in the places of a model's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from meristem.edit.journal import Step
from meristem.edit.slots import Successors, module_steps
from meristem.errors import EditError


def is_hollow(tensor: Tensor | None) -> TypeGuard[FakeTensor]:
    """Whether it has no values."""
    return isinstance(tensor, FakeTensor)


def hollow(like: Tensor, shape: Sequence[int] | None = None, device: torch.device | None = None) -> Tensor:
    """A tensor without values: a parameter, if the other one is.

    Args:
        like: what it stands for.
        shape: its shape; default: the same.
        device: on which it pretends to be; default: the same.

    Raises:
        EditError: there can be no tensor of that shape.
    """
    mode = like.fake_mode if is_hollow(like) else FakeTensorMode(allow_non_fake_inputs=True)
    try:
        blank = torch.empty(tuple(like.shape if shape is None else shape), dtype=like.dtype, device="meta")
    except RuntimeError as error:  # more entries than there are addresses
        raise EditError(f"a tensor of the shape {tuple(shape or ())} cannot be") from error
    found = FakeTensor(mode, blank, like.device if device is None else device)
    return nn.Parameter(found, like.requires_grad) if isinstance(like, nn.Parameter) else found


def hollowed(modules: Iterable[nn.Module], device: torch.device | None = None) -> list[Step]:
    """Steps that take the values away from all parameters and buffers of modules, wherever these hold them."""
    found = list(modules)
    tensors = [tensor for one in found for tensor in (*one.parameters(), *one.buffers()) if not is_hollow(tensor)]
    return module_steps(found, Successors((tensor, hollow(tensor, device=device)) for tensor in tensors))
