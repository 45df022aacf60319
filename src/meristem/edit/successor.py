"""The tensor that takes the place of another one, with everything that users hang on to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meristem.edit.compute import gathered
from meristem.edit.indices import Recipe


def successor(old: Tensor, data: Tensor, recipe: Recipe) -> Tensor:
    """A new parameter or buffer in place of `old`.

    Kept: the class, `requires_grad`, the attributes set on the tensor (tensors of its shape are gathered alike), its
    hooks (their handles still remove them), and the gradient, gathered alike, with zeros for newborns.
    """
    if type(old) is nn.Parameter:
        new: Tensor = nn.Parameter(data, old.requires_grad)
    elif type(old) is Tensor:
        new = data.requires_grad_(old.requires_grad)
    else:
        new = torch.Tensor._make_subclass(type(old), data, old.requires_grad)
    for name, value in vars(old).items():
        alike = isinstance(value, Tensor) and value.shape == old.shape
        setattr(new, name, gathered(value.detach(), recipe) if alike else value)
    if old._backward_hooks:
        new._backward_hooks = old._backward_hooks
    if getattr(old, "_post_accumulate_grad_hooks", None):
        new._post_accumulate_grad_hooks = old._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    if old.grad is not None:
        new.grad = gradient(old.grad, recipe)
    return new


def gradient(old: Tensor, recipe: Recipe) -> Tensor:
    """A gradient after the edit: zero for newborns, scaled where copies share what one unit did."""
    factors = {dim: along.gradient for dim, along in recipe.items() if along.gradient is not None}
    if old.layout is not torch.strided:
        dense = gathered(old.to_dense(), recipe, factors)
        return dense.to_sparse(old.sparse_dim())
    return gathered(old.detach(), recipe, factors)
