"""Where APoZ counts zeros: behind whatever gives exact zeros last, whether or not units can be followed before that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from meristem.axes import trace
from meristem.prune import APoZ
from meristem.recipes import evidence
from meristem.signals import View

REFUSED = "nothing that can be seen makes what is read of it exactly zero, as ReLU does"


class Net(nn.Module):
    """It keeps what its last layer reads."""

    heard: Tensor


class Between(Net):
    """A layer, a function of its output, and a layer that reads it."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        self.heard = self.between(self.a(x))
        return self.o(self.heard)


class Gated(Net):
    """A gated unit; its activation function stands first or second."""

    def __init__(self, gate: Callable[[Tensor], Tensor], turned: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.gate, self.turned = gate, turned

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(self.a(x)), self.b(x)
        self.heard = up * gate if self.turned else gate * up
        return self.o(self.heard)


class Depthwise(Net):
    """As in MobileNetV2."""

    def __init__(self, activation: nn.Module, groups: int = 8) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.body = nn.Sequential(nn.BatchNorm2d(8), activation, nn.Conv2d(8, 8, 3, padding=1, groups=groups))
        self.tail = nn.Sequential(nn.BatchNorm2d(8), activation)

    def forward(self, x: Tensor) -> Tensor:
        self.heard = self.tail(self.body(self.a(x)))
        return self.o(self.heard)


class Steep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.hardswish(8 * x)


def normed(x: Tensor) -> Tensor:
    return functional.layer_norm(torch.relu(x).movedim(1, -1), (8,)).movedim(-1, 1)


SEEN: dict[str, Callable[[], Net]] = {
    "relu": lambda: Between(torch.relu),
    "shifted far": lambda: Between(lambda x: torch.relu(x - 0.1)),
    "hardswish": lambda: Between(lambda x: functional.hardswish(8 * x)),
    "hardsigmoid": lambda: Between(lambda x: functional.hardsigmoid(8 * x)),
    "hardshrink": lambda: Between(functional.hardshrink),
    "softshrink": lambda: Between(functional.softshrink),
    "resized": lambda: Between(lambda x: functional.interpolate(torch.relu(x), scale_factor=2)),
    "gated": lambda: Gated(torch.relu),
    "gated, turned": lambda: Gated(torch.relu, turned=True),
    "depthwise": lambda: Depthwise(nn.ReLU6()),
    "depthwise, hardswish": lambda: Depthwise(Steep()),
    "grouped": lambda: Depthwise(nn.ReLU(), groups=2),
}
SMOOTH = (
    functional.gelu, functional.silu, functional.mish, functional.elu, functional.softplus, functional.softsign,
    functional.hardtanh, functional.tanhshrink, torch.tanh, torch.sigmoid,
)  # fmt: skip
DENSE: dict[str, Callable[[], Net]] = {
    **{f.__name__: partial(Between, f) for f in SMOOTH},
    "nothing": lambda: Between(lambda x: x),
    "layer norm behind relu": lambda: Between(normed),
    "gated": lambda: Gated(functional.silu),
    "depthwise": lambda: Depthwise(nn.SiLU()),
    "depthwise, learnt slope": lambda: Depthwise(nn.PReLU()),
}


@pytest.mark.parametrize("name", SEEN)
def test_zeros_are_counted_wherever_they_may_be(name):
    """Against counting them by hand in what the reader is given."""
    torch.manual_seed(0)
    model = SEEN[name]().double().eval()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    axes = trace(model, x)
    axis = axes["a"] if name != "grouped" else axes["body.2[1]"]
    criterion = APoZ()
    assert criterion.undefined(axes, axis) is None
    signals = evidence(axes, criterion.needs(axes, axis), [x], lambda net, batch: net(batch).square().mean())
    scores = criterion.scores(View(axes, signals=signals), axis)
    by_channel = model.heard.ne(0).double().mean((0, 2, 3))
    expected = by_channel.unflatten(0, (-1, axis.size)).mean(0)
    torch.testing.assert_close(scores, expected)
    assert scores.min() < 1


@pytest.mark.parametrize("name", DENSE)
def test_what_is_never_exactly_zero_is_refused(name):
    torch.manual_seed(0)
    model = DENSE[name]().double().eval()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    axes = trace(model, x)
    assert APoZ().undefined(axes, axes["a"]) == REFUSED
    model(x)
    assert bool(model.heard.ne(0).all())
