"""Nets with one interesting axis each, and a method's plan for it from one ordinary training step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import meristem
from meristem.axes import Axis, AxisMap
from meristem.axes.map import Role
from meristem.edit import Explicit
from meristem.grow import Growth, Method
from meristem.signals import View
from meristem.signals.direct import Recording

CLASSES = 3


class TwoReaders(nn.Module):
    """Two convolutions read one; the answers are added."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation = nn.Conv2d(2, 4, 3, padding=1), activation
        self.left, self.right = nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3, padding=2, dilation=2, stride=2)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.first(x))
        return self.head(torch.cat([self.left(h).flatten(1), self.right(h).flatten(1)], 1))


class Stream(nn.Module):
    """Two weights add into one activation, which two read."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.head, self.activation = nn.Linear(6, CLASSES), activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.outer(self.activation(self.inner(self.activation(h))))
        return self.head(self.activation(h))


class SquaredReLU(nn.Module):
    """Its derivative at 0 is 0 from either side."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x) ** 2


class Shared(nn.Module):
    """The same two weights twice."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.back, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, CLASSES)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.back(self.activation(self.first(x)))
        return self.head(x)


def _conv(producer: nn.Module, consumer: nn.Module) -> Callable[[nn.Module], nn.Module]:
    """Copies of two layers with an activation function in between."""
    return lambda activation: nn.Sequential(
        deepcopy(producer), activation, deepcopy(consumer), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


SITES: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda a: nn.Sequential(nn.Linear(5, 4), a, nn.Linear(4, 6), a, nn.Linear(6, CLASSES)), (5,), "0"),
    "tokens": (
        lambda a: nn.Sequential(nn.Linear(5, 4), a, nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, CLASSES)), (3, 5), "0"
    ),
    "same": (_conv(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)), (2, 6, 6), "0"),
    "valid": (_conv(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)), (2, 7, 7), "0"),
    "strided": (_conv(nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 3, 3, 2, 1)), (2, 9, 9), "0"),
    "dilated": (_conv(nn.Conv2d(2, 4, 3, 1, 2, 2), nn.Conv2d(4, 3, 2, 1, 1, 2)), (2, 7, 7), "0"),
    "pointwise": (_conv(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1, bias=False)), (2, 5, 5), "0"),
    "conv1d": (_conv(nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 3, 3)), (2, 8), "0"),
    "conv3d": (_conv(nn.Conv3d(2, 4, 2), nn.Conv3d(4, 3, 2)), (2, 4, 4, 4), "0"),
    "transposed": (_conv(nn.ConvTranspose2d(2, 4, 3, 2), nn.Conv2d(4, 3, 3, 2)), (2, 4, 4), "0"),
    "into transposed": (_conv(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 3, 2)), (2, 5, 5), "0"),
    "flattened": (
        lambda a: nn.Sequential(nn.Conv2d(2, 4, 3), a, nn.Flatten(), nn.Linear(64, 5), a, nn.Linear(5, CLASSES)),
        (2, 6, 6), "0",
    ),
    "pooled": (
        lambda a: nn.Sequential(nn.Conv2d(2, 4, 3), a, nn.AvgPool2d(2), nn.Conv2d(4, 3, 2), nn.Flatten(),
                                nn.LazyLinear(CLASSES)),
        (2, 8, 8), "0",
    ),
    "averaged": (
        lambda a: nn.Sequential(nn.Conv2d(2, 4, 3), a, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)),
        (2, 6, 6), "0",
    ),
    "two readers": (TwoReaders, (2, 6, 6), "first"),
    "shared": (Shared, (5,), "first"),
}  # fmt: skip
"""Name -> (net for an activation function, shape of an input, axis); one weight produces each of these axes."""

STREAM: tuple[Callable[[nn.Module], nn.Module], tuple[int, ...], str] = (Stream, (5,), "first")
"""Two weights add into this axis."""

MANY_PRODUCERS = {**SITES, "stream": STREAM}

BENT: dict[str, nn.Module] = {"sigmoid": nn.Sigmoid(), "softplus": nn.Softplus(), "squared relu": SquaredReLU()}
"""Activation functions that are not 0 at 0, or flat there."""


def make(
    site: tuple[Callable[[nn.Module], nn.Module], tuple[int, ...], str], activation: nn.Module, samples: int = 24
) -> tuple[nn.Module, Tensor, Tensor, str]:
    """A net in float64 with a batch of inputs and labels, and the name of its axis."""
    build, shape, axis = site
    torch.manual_seed(0)
    x, labels = torch.randn(samples, *shape, dtype=torch.float64), torch.randint(CLASSES, (samples,))
    model = build(activation).double()
    model(x)
    return model, x, labels, axis


def objective(model: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The loss on one batch."""
    return lambda: cross_entropy(model(x), labels)


def planned(
    method: Method, model: nn.Module, loss: Callable[[], Tensor], example: Tensor, name: str, count: int,
    *, closure: bool = False,
) -> tuple[AxisMap, Axis, Growth]:  # fmt: skip
    """What a method proposes after one ordinary step; the model is as before, without gradients."""
    axes = meristem.trace(model, example)
    axis = axes[name]
    assert method.undefined(axes, axis) is None, method.undefined(axes, axis)
    recorder = Recording(axes, method.needs(axes, axis, count))
    recorder.closing()
    loss().backward()
    signals = recorder.finish()
    model.zero_grad(set_to_none=True)
    return axes, axis, method.propose(View(axes, signals=signals, closure=loss if closure else None), axis, count)


def decrease_along_the_line(
    build: Callable[[], tuple[nn.Module, Tensor, Tensor, str]], method: Method, count: int = 2
) -> tuple[Growth, float]:
    """What a method proposes, and the central difference of the loss along the line to it from newborns with the
    opposite fan-out; `build` makes the same net whenever it is called."""
    losses = []
    for sign in (1, -1):
        model, x, labels, name = build()
        loss = objective(model, x, labels)
        axes, axis, plan = planned(method, model, loss, x, name, count)
        assert isinstance(plan.start, Explicit)
        reading = {(p.layout.name, p.dim) for p in axes.places[axis.index] if Role.READS in p.roles}
        turned = {place: sign * v if place in reading else v for place, v in plan.start.entries.items()}
        commit(axes, replace(plan, start=replace(plan.start, entries=turned)))
        losses.append(float(loss().detach()))
    return plan, (losses[1] - losses[0]) / 2


def commit(axes: AxisMap, plan: Growth) -> AxisMap:
    """Carry a plan out."""
    return meristem.Edit(axes).gather(plan.axis, plan.gather, plan.start).commit().axes
