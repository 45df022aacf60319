"""TINY: not only at birth, but after the next steps too the loss is not above that of the model that did not grow."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import meristem
from meristem.grow import TINY, Method, Mitosis, Net2Wider
from meristem.schedule import At

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
TWINS: dict[str, Method | None] = {"none": None, "Mitosis": Mitosis(), "Net2Wider": Net2Wider(noise=1e-2)}
BEFORE, AFTER = 48, 20
"""Steps before the growth, in which twins part a little, and after it."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A net whose first hidden layer has twins that have been trained for some steps, with what trains it."""

    model: nn.Sequential
    optimizer: Optimizer
    x: Tensor
    target: Tensor

    def loss(self) -> Tensor:
        return (self.model(self.x) - self.target).square().mean()

    def step(self) -> Tensor:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def losses(self, steps: int) -> Tensor:
        return torch.stack([self.step().detach() for _ in range(steps)])

    def copied(self) -> Trained:
        model = copy.deepcopy(self.model)
        optimizer = type(self.optimizer)(model.parameters(), **self.optimizer.defaults)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return Trained(model, optimizer, self.x, self.target)

    def grow(self, method: Method, count: int, name: str, *, closure: bool) -> None:
        """One more step, with an edit at its end."""
        at = At(1, grow=count)
        plasticity = meristem.Plasticity(self.model, self.optimizer, self.x, grow=method, schedule=at, axes=[name])
        event = plasticity.step(self.step(), self.loss if closure else None)
        assert event is not None
        assert event.births


@cache
def trained(activation: str, twins: str, rate: float) -> Trained:
    """Rates from 0.01 on are those of SGD, smaller ones of Adam."""
    torch.manual_seed(0)
    act = ACTIVATIONS[activation]
    model = nn.Sequential(nn.Linear(10, 16), act(), nn.Linear(16, 16), act(), nn.Linear(16, 3))
    x = torch.randn(256, 10)
    target = torch.tanh(x[:, :3] * x[:, 3:6])
    optimizer = (SGD if rate >= 0.01 else Adam)(model.parameters(), lr=rate)
    found = Trained(model, optimizer, x, target)
    method = TWINS[twins]
    if method is not None:
        found.grow(method, 16, "0", closure=False)
    found.losses(BEFORE)
    return found


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("rate", [0.05, 0.2, 1e-3])
@pytest.mark.parametrize("twins", TWINS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_loss_stays_below_that_without_growth(activation: str, twins: str, rate: float, closure: bool) -> None:
    """Units that were twins some steps ago make S nearly singular; what reads their difference stays small."""
    still = trained(activation, twins, rate).copied()
    for best_move in (False, True) if closure else (False,):
        grown = trained(activation, twins, rate).copied()
        grown.grow(TINY(best_move=best_move), 4, "2", closure=closure)
        ungrown = still.copied()
        ungrown.step()
        assert bool((grown.losses(AFTER) < ungrown.losses(AFTER)).all())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_as_published_it_explodes(activation: str) -> None:
    """What the defaults are there for; if this fails they may not be needed."""
    grown = trained(activation, "Mitosis", 0.05).copied()
    before = float(grown.loss().detach())
    grown.grow(TINY(ridge=1e-6, steepness=math.inf), 4, "2", closure=True)
    losses = grown.losses(3)
    assert float(losses[0]) < before < float(losses[1:].max())
