"""What breaks training after an edit with other libraries: optimizers, ties, frozen layers, hooks, modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.axes.map import AxisMap
from meristem.edit import Edit

from ..zoo.models import row


def half(axes: AxisMap, optimizers: tuple[torch.optim.Optimizer, ...] = ()):
    """Prune half of every editable axis."""
    edit = Edit(axes, optimizers)
    for axis in axes.editable:
        if axis.size > 1:
            edit.prune(axis, range(axis.size // 2))
    return edit.commit()


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["mlp", "conv_flatten_linear", "timm/resnet18"])
def test_adam_holds_every_live_parameter_and_all_train(name: str) -> None:
    model: Any = row(name).model()
    (x,), _ = row(name).example()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train_once(model, optimizer, x)
    half(meristem.trace(model, x), (optimizer,))

    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert set(optimizer.state) == set(model.parameters())
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    train_once(model, optimizer, x)
    assert all(not torch.equal(p, before[key]) for key, p in model.named_parameters())


TIED = {
    "tied_language_model": ("embedding.weight", "head.weight"),
    "hf/gpt2": ("transformer.wte.weight", "lm_head.weight"),
}


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_stay_tied(name: str) -> None:
    model: Any = row(name).model()
    args, kwargs = row(name).example()
    before = model.get_parameter(TIED[name][0]).shape
    half(meristem.trace(model, args, kwargs))
    embedding, head = (model.get_parameter(path) for path in TIED[name])
    assert embedding is head
    assert embedding.shape[0] == before[0]
    assert embedding.shape[1] < before[1]


def test_frozen_layers_stay_frozen_and_a_frozen_stem_works() -> None:
    model: Any = row("conv_flatten_linear").model()
    (x,), _ = row("conv_flatten_linear").example()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    half(meristem.trace(model, x))
    assert {key for key, p in model.named_parameters() if not p.requires_grad} == {"0.weight", "0.bias"}
    model(x).sum().backward()
    assert model[0].weight.grad is None
    assert model[0].weight.shape[0] == 4
    assert model[4].weight.grad.shape == model[4].weight.shape


def test_gradient_hooks_and_attributes_of_parameters_survive() -> None:
    model: Any = row("mlp").model()
    (x,), _ = row("mlp").example()
    seen: list[torch.Size] = []
    accumulated: list[torch.Size] = []
    model[0].weight.register_hook(lambda grad: seen.append(grad.shape))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: accumulated.append(p.shape))
    model[0].weight.weight_decay = 0.125
    half(meristem.trace(model, x))
    model(x).sum().backward()
    assert seen == [torch.Size((6, 6))]
    assert accumulated == [torch.Size((6, 6))]
    assert model[0].weight.weight_decay == 0.125


def test_modes_are_left_as_they_were() -> None:
    model: Any = row("conv_flatten_linear").model().train()
    model[1].eval()
    (x,), _ = row("conv_flatten_linear").example()
    modes = [module.training for module in model.modules()]
    half(meristem.trace(model, x))
    assert [module.training for module in model.modules()] == modes
