"""Optimizer state of weights that are not there: zero once is zero until somebody writes to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem.mask import RigL, Sparse


def restless(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Makes an optimizer whose every step adds something everywhere: to weights and to their momentum."""
    with torch.no_grad():
        for parameter, state in optimizer.state.items():
            parameter.add_(1.0)
            state["momentum_buffer"].add_(1.0)


def trained(optimizer: torch.optim.Optimizer, layer: nn.Linear, steps: int) -> None:
    """Some steps on noise."""
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randn(16, layer.in_features)).square().mean().backward()
        optimizer.step()


def pieces(interval: int, *, noise: bool = False) -> tuple[nn.Linear, torch.optim.SGD, Sparse]:
    """A layer, its optimizer, and masks that an update changes every so many steps."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 10, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    if noise:
        optimizer.register_step_post_hook(restless)
    return layer, optimizer, Sparse(layer, optimizer, RigL(density=0.3, end=1000, interval=interval))


def silent(layer: nn.Linear, optimizer: torch.optim.SGD, sparsity: Sparse) -> tuple[Tensor, Tensor]:
    """The weights that are not there, and their momentum."""
    gone = ~sparsity.masks["weight"]
    return layer.weight.detach()[gone], optimizer.state[layer.weight]["momentum_buffer"][gone]


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
def test_state_stays_zero_by_itself(steps: int) -> None:
    """At every step, before, at and after updates."""
    layer, optimizer, sparsity = pieces(interval=5)
    trained(optimizer, layer, steps)
    weights, momentum = silent(layer, optimizer, sparsity)
    assert not weights.any()
    assert not momentum.any()


def test_an_optimizer_that_fills_it_moves_no_weight() -> None:
    """Weights that are not there are zero after every step; those that an update brings start without momentum."""
    layer, optimizer, sparsity = pieces(interval=5, noise=True)
    trained(optimizer, layer, 4)
    weights, momentum = silent(layer, optimizer, sparsity)
    assert not weights.any()
    assert momentum.any()
    before = sparsity.masks["weight"].clone()
    trained(optimizer, layer, 1)
    born = sparsity.masks["weight"] & ~before
    assert born.any()
    assert not optimizer.state[layer.weight]["momentum_buffer"][born].any()
    assert not silent(layer, optimizer, sparsity)[1].any()


def test_loaded_state_is_silenced_at_the_next_step() -> None:
    """Whatever an optimizer is given between two steps."""
    layer, optimizer, sparsity = pieces(interval=100)
    trained(optimizer, layer, 3)
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = torch.ones(10, 12)
    optimizer.load_state_dict(state)
    trained(optimizer, layer, 1)
    weights, momentum = silent(layer, optimizer, sparsity)
    assert not weights.any()
    assert not momentum.any()
