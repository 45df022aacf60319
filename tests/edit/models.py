"""The models that the tests of the edit run over: the zoo's small ones, with an optimizer that has state."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Edit
from tests.zoo.models import SMALL_ROWS, row
from tests.zoo.row import Row

NAMES = (
    "mlp",
    "residual_mlp",
    "shared_twice",
    "tied_autoencoder",
    "tied_language_model",
    "bare_einsum",
    "swiglu",
    "weight_norm_new",
    "weight_norm_old",
    "spectral_norm_new",
    "two_inputs_dict_output",
    "rms_norm",
    "conv_flatten_linear",
    "unet",
    "dense_block",
    "resnext",
    "depthwise",
    "squeeze_excite",
    "instance_norm",
    "transposed_groups",
    "multihead_attention",
    "encoder_layer",
    "grouped_query",
    "lstm_2_bidirectional",
    "gru_2",
)
ROWS = tuple(found for found in SMALL_ROWS if found.name in NAMES)


@dataclass(frozen=True)
class Subject:
    """A model with its map and its row."""

    row: Row
    model: Any
    axes: AxisMap

    def backward(self, batch: int | None = None) -> Tensor:
        """One loss with its gradients; the same for equal models."""
        loss = self.loss(batch)
        loss.backward()
        return loss

    def loss(self, batch: int | None = None) -> Tensor:
        """A smooth scalar of all outputs."""
        args, kwargs = self.row.example(batch)
        outputs = [x for x in tree_leaves(self.model(*args, **kwargs)) if isinstance(x, Tensor) and x.requires_grad]
        return torch.stack([(out - 0.3).square().mean() for out in outputs]).sum()

    def edited(self, axes: AxisMap) -> Subject:
        """The same after an edit."""
        return replace(self, axes=axes)


@cache
def _original(name: str) -> Subject:
    found = row(name)
    model = found.model()
    args, kwargs = found.example()
    return Subject(found, model, trace(model, args, kwargs))


def subject(name: str) -> Subject:
    """A fresh copy of a traced model; always the same."""
    original = _original(name)
    model = copy.deepcopy(original.model)
    return replace(original, model=model, axes=replace(original.axes, model_reference=weakref.ref(model)))


def trained(found: Subject, make: Callable[[Iterable[nn.Parameter]], Optimizer], steps: int = 3) -> Optimizer:
    """An optimizer with state, after a few steps; gradients are left in place."""
    optimizer = make(found.model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        found.backward(2 + step % 2)
        optimizer.step()
    return optimizer


def some_edit(found: Subject, optimizers: Optimizer | Iterable[Optimizer] = (), **options: object) -> Edit:
    """Grow every other axis by two and prune one unit of the others."""
    edit = Edit(found.axes, optimizers, **options)  # type: ignore[arg-type]
    for number, axis in enumerate(found.axes.editable):
        if number % 2 and axis.size > 1:
            edit.prune(axis, [axis.size // 2])
        else:
            edit.grow(axis, 2)
    return edit


def exact_axes(axes: AxisMap) -> list[Axis]:
    """The axes on which growth is exact."""
    return [axis for axis in axes if axis.exact]
