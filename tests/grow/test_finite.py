"""Weights and statistics that are not finite are refused by name, and nothing is edited."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.diagnose import effective_rank, rank99, stable_rank
from meristem.errors import SignalError
from meristem.grow import (
    TINY,
    FastSplitting,
    GradMax,
    GradMaxOpt,
    Method,
    NorthOpt,
    NorthPre,
    NorthWeight,
    Splitting,
)
from meristem.mask import SparseGPT, one_shot
from meristem.schedule.effective_dimension import effective_dimension
from meristem.signals.solve import factor


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out, self.between = nn.Linear(9, 6), nn.Linear(6, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.into(x)))


class Run:
    """One training step of a small net, and an edit after it."""

    def __init__(self, method: Method, between: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        self.model = Net(between).double()
        self.x, self.y = torch.randn(32, 9).double(), torch.randn(32, 3).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.plasticity = meristem.Plasticity(
            self.model, self.optimizer, self.x, grow=method, schedule=meristem.schedule.At(1, grow=2), axes="into"
        )

    def loss(self) -> Tensor:
        return (self.model(self.x) - self.y).square().mean()

    def train(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        self.train()
        self.plasticity.step(None)

    def refused(self, found: str) -> None:
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        with pytest.raises(SignalError, match=found):
            self.plasticity.step(None, self.loss)
        after = self.model.state_dict()
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor, rtol=0, atol=0, equal_nan=True)
        shapes = [self.optimizer.state[p]["momentum_buffer"].shape for p in self.model.parameters()]
        assert shapes == [p.shape for p in self.model.parameters()]
        assert not self.plasticity.history


@pytest.mark.parametrize("method", [NorthOpt(), NorthPre(), NorthWeight()], ids=repr)
@pytest.mark.parametrize(("number", "found"), [(nan, "got 1 NaN and 0 infinite"), (-inf, "got 0 NaN and 1 infinite")])
def test_weights_that_newborns_are_computed_from(method, number, found) -> None:
    run = Run(method)
    run.train()
    with torch.no_grad():
        run.model.into.weight[1, 2] = number
    run.refused(f"in into.weight.*{found}")


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (NorthOpt(), "the second moment of what into.weight reads"),
        (NorthPre(), "the second moment of what into.weight reads"),
        (TINY(), "the second moment of what newborns of 'into' would read"),
        (GradMax(), "the squared gradients at newborns of 'into'"),
    ],
    ids=repr,
)
def test_statistics_that_overflow(method, found) -> None:
    """The net saturates, so that its loss and gradients are finite although an input is too large to be squared."""
    run = Run(method)
    run.x[3, 4] = 1e200
    with pytest.raises(SignalError, match=f"{found}.*infinite"):
        run.step()
    assert not run.plasticity.history


def root(z: Tensor) -> Tensor:
    """Its slope at 0 and below is infinity times zero."""
    return z.relu().sqrt()


def power(z: Tensor) -> Tensor:
    """The same of its second derivative."""
    return z.relu() ** 1.5


@pytest.mark.parametrize(
    ("method", "between", "found"),
    [
        (GradMaxOpt(steps=2), root, "second derivatives at newborns of 'into'"),
        (Splitting(), root, "the gradient of the closure's loss with respect to into.weight"),
        (Splitting(), power, "second derivatives at the fan-in of 'into'"),
        (FastSplitting(), power, "second derivatives at the fan-in of 'into'"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or (value if isinstance(value, str) else type(value).__name__),
)
def test_derivatives_of_the_closures_loss(method, between, found) -> None:
    run = Run(method, between)
    for parameter in run.model.parameters():
        run.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    run.refused(f"{found}.*NaN")


def test_moments_that_cannot_be_factored() -> None:
    """No ridge would ever help."""
    for number in (nan, inf):
        moment = torch.eye(3, dtype=torch.float64)
        moment[1, 1] = number
        with pytest.raises(SignalError, match="expected finite numbers"):
            factor(moment, 1e-6)


def test_finite_numbers_pass() -> None:
    run = Run(NorthPre())
    run.train()
    event = run.plasticity.step(None)
    assert event is not None
    assert run.model.into.out_features == 8


@pytest.mark.parametrize("number", [nan, inf])
def test_elsewhere_too(number: float) -> None:
    matrix = torch.eye(4)
    matrix[1, 1] = number
    for of in (effective_dimension, effective_rank, stable_rank, rank99):
        with pytest.raises(SignalError, match="finite"):
            of(matrix)
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(SignalError, match=r"what 0\.weight reads"):
        one_shot(model, SparseGPT(), lambda: model(matrix))
