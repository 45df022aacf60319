"""Small image classifiers of the usual kinds, plain PyTorch: nothing in them knows about growth or pruning.

Every factory takes the shape of one image (channels, height, width) and the number of classes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

Shape: TypeAlias = Sequence[int]


def mlp(input_shape: Shape, classes: int, widths: Sequence[int] = (64, 64)) -> nn.Sequential:
    """Fully connected layers with ReLU, one for each width."""
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    features = math.prod(input_shape)
    for depth, width in enumerate(widths, start=1):
        layers[f"layer{depth}"] = nn.Linear(features, width)
        layers[f"relu{depth}"] = nn.ReLU()
        features = width
    layers["head"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def conv(input_shape: Shape, classes: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A trunk of 3 x 3 convolutions with batch normalization and ReLU; every one after the first halves the image."""
    layers = OrderedDict[str, nn.Module]()
    channels = input_shape[0]
    for depth, width in enumerate(widths, start=1):
        layers[f"layer{depth}"] = _conv_norm_relu(channels, width, stride=1 if depth == 1 else 2)
        channels = width
    return nn.Sequential(layers | _pooled_head(channels, classes))


def vgg(
    input_shape: Shape, classes: int, widths: Sequence[int] = (16, 32, 64), hidden: int = 64, dropout: float = 0.0
) -> nn.Sequential:
    """Like VGG: for each width two convolutions and a pooling, then one hidden layer on the flattened image."""
    layers = OrderedDict[str, nn.Module]()
    channels, *size = input_shape
    for depth, width in enumerate(widths, start=1):
        layers[f"layer{depth}a"] = _conv_norm_relu(channels, width)
        layers[f"layer{depth}b"] = _conv_norm_relu(width, width)
        layers[f"pool{depth}"] = nn.MaxPool2d(2, ceil_mode=True)
        channels, size = width, [math.ceil(n / 2) for n in size]
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(channels * math.prod(size), hidden)
    layers["relu"] = nn.ReLU()
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)


def resnet(input_shape: Shape, classes: int, width: int = 16, inner: int = 16, blocks: int = 2) -> nn.Sequential:
    """A residual trunk: all blocks add to the same `width` channels, each through `inner` channels of its own."""
    layers = OrderedDict[str, nn.Module](trunk=_conv_norm_relu(input_shape[0], width))
    for depth in range(1, blocks + 1):
        layers[f"block{depth}"] = ResidualBlock(width, inner)
    return nn.Sequential(layers | _pooled_head(width, classes))


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), from (n, width, h, w) to the same shape."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = _conv_norm_relu(width, inner)
        self.outer = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.norm(self.outer(self.inner(x))))


def _conv_norm_relu(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(width), relu=nn.ReLU()))


def _pooled_head(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(channels, classes))


FACTORIES = {factory.__name__: factory for factory in (mlp, conv, vgg, resnet)}
"""The models by name."""
