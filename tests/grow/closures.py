"""Small regression tasks with a closure, for the growth methods that evaluate the loss themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meristem.axes import AxisMap, trace
from meristem.edit import Edit
from meristem.grow import Growth
from meristem.signals import View


@dataclass
class Task:
    """A model, its map, and a closure on one batch."""

    model: nn.Module
    x: Tensor
    y: Tensor
    axes: AxisMap

    def loss(self) -> Tensor:
        return (self.model(self.x) - self.y).square().mean()

    @property
    def view(self) -> View:
        return View(self.axes, generator=torch.Generator().manual_seed(3), closure=self.loss)

    def grown(self, plan: Growth) -> Task:
        """A copy of the task after a plan."""
        model = copy.deepcopy(self.model)
        axes = Edit(trace(model, self.x)).gather(plan.axis.name, plan.gather, plan.start).commit().axes
        return Task(model, self.x, self.y, axes)


def task(make: Callable[[], nn.Module], shape: tuple[int, ...], dtype: Any = torch.float64, seed: int = 0) -> Task:
    """A model with random targets."""
    torch.manual_seed(seed)
    model = make().to(dtype)
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        y = torch.randn_like(model(x))
    return Task(model, x, y, trace(model, x))


def mlp(activation: Callable[[], nn.Module] = nn.Tanh, norm: bool = False) -> Callable[[], nn.Module]:
    """Two hidden layers, named "0" and the second linear layer."""

    def make() -> nn.Module:
        norms = [nn.BatchNorm1d(6)] if norm else []
        return nn.Sequential(
            nn.Linear(4, 6), *norms, activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)
        )  # fmt: skip

    return make


class Recurrent(nn.Module):
    """A recurrence written by hand: one weight both produces and reads the axis, in different dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(4, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for _ in range(2):
            h = torch.tanh(self.first(x) + self.again(h))
        return self.head(h)


def convolution() -> nn.Module:
    """Convolution, flattened, read by a linear layer."""
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 3))
