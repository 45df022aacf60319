"""The two nets of the paper, plain PyTorch: one with masks behind its hidden layers, one without."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from meristem.integrate import RandomizedSmoothLeaky

Net: TypeAlias = Literal["mlp", "conv"]
Activation: TypeAlias = Literal["relu", "leaky", "rsl"]

TRUNK = (32, 64)
"""Channels of the convolutions before the hidden layers; each is pooled."""

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "rsl": lambda: RandomizedSmoothLeaky(lower=0.125, upper=0.333, width=5.0, sharpness=3.0),
}
"""By name; the numbers of `rsl` are those of the paper for CIFAR."""


class Gated(nn.Module):
    """An activation function, and a mask over units behind it: what is masked gives nothing and gets no gradient.

    Attributes:
        mask: 1 or 0, shape (units,).
        listening: let gradients through to masked units, whose output stays 0: what they would get if they took part.
    """

    mask: Tensor

    def __init__(self, function: nn.Module, units: int) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("mask", torch.ones(units))
        self.listening = False

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, units), and the same again."""
        h = self.function(x)
        return h * self.mask + (h - h.detach()) * (1 - self.mask) if self.listening else h * self.mask


def build(
    net: Net, shape: Sequence[int], classes: int, widths: Sequence[int], activation: Activation, masked: bool
) -> nn.Sequential:
    """784-256-256-10, or two convolutions (32 and 64 channels, each pooled) before 512-512-256, at the paper's widths.

    The hidden layers are called `fc1`, `fc2`, ...; their activation functions `act1`, ...; the last layer `head`.
    Weights are initialized after He et al. 2015 (arXiv 1502.01852), uniform between +-sqrt(6 / fan-in), with the fan-in
    of the full width; biases are 0.

    Args:
        net: which.
        shape: channels, height and width of an image.
        classes: of the head.
        widths: of the hidden layers.
        activation: by name, everywhere.
        masked: whether hidden layers are `Gated`.
    """
    channels, height, width = shape
    layers = OrderedDict[str, nn.Module]()
    if net == "conv":
        for depth, units in enumerate(TRUNK, start=1):
            layers[f"conv{depth}"] = nn.Conv2d(channels, units, 3, padding=1)
            layers[f"relu{depth}"] = ACTIVATIONS[activation]()
            layers[f"pool{depth}"] = nn.MaxPool2d(2)
            channels, height, width = units, height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    features = math.prod((channels, height, width))
    for depth, units in enumerate(widths, start=1):
        layers[f"fc{depth}"] = nn.Linear(features, units)
        function = ACTIVATIONS[activation]()
        layers[f"act{depth}"] = Gated(function, units) if masked else function
        features = units
    layers["head"] = nn.Linear(features, classes)
    for layer in layers.values():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


def hidden(model: nn.Module) -> tuple[str, ...]:
    """The names of the hidden layers, in their order."""
    return tuple(name for name, _ in model.named_children() if name.startswith("fc"))


def linear(model: nn.Module, name: str) -> nn.Linear:
    """The layer of that name."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def reader(model: nn.Module, name: str) -> str:
    """The layer that reads a hidden one."""
    names = [*hidden(model), "head"]
    return names[names.index(name) + 1]
