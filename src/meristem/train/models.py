"""Small image classifiers of the usual kinds, plain PyTorch: nothing in them knows about growth or pruning.

Every factory takes the shape of one image (channels, height, width) and the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

Shape: TypeAlias = Sequence[int]


def mlp(input_shape: Shape, classes: int, widths: Sequence[int] = (64, 64)) -> nn.Sequential:
    """Fully connected layers with ReLU, one for each width."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(input_shape)
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


def conv(input_shape: Shape, classes: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A trunk of 3 x 3 convolutions with batch normalization and ReLU; every one after the first halves the image."""
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for depth, width in enumerate(widths):
        layers.append(_conv_norm_relu(channels, width, stride=1 if depth == 0 else 2))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def vgg(
    input_shape: Shape, classes: int, widths: Sequence[int] = (16, 32, 64), head: int = 64, dropout: float = 0.0
) -> nn.Sequential:
    """Like VGG: two convolutions and a pooling for each width, then a hidden layer of `head` features on the flat image."""
    layers: list[nn.Module] = []
    channels, height, width_px = input_shape
    for width in widths:
        layers += [_conv_norm_relu(channels, width), _conv_norm_relu(width, width), nn.MaxPool2d(2, ceil_mode=True)]
        channels, height, width_px = width, math.ceil(height / 2), math.ceil(width_px / 2)
    hidden = nn.Linear(channels * height * width_px, head)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(dropout), nn.Linear(head, classes))


def resnet(input_shape: Shape, classes: int, width: int = 16, inner: int = 16, blocks: int = 2) -> nn.Sequential:
    """A residual trunk: all blocks add to the same `width` channels, each through `inner` channels of its own."""
    stem = _conv_norm_relu(input_shape[0], width)
    trunk = [ResidualBlock(width, inner) for _ in range(blocks)]
    return nn.Sequential(stem, *trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(x)))), normalized, with a ReLU after the sum. Keeps the shape (n, width, h, w)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = _conv_norm_relu(width, inner)
        self.outer = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.norm(self.outer(self.inner(x))))


def _conv_norm_relu(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


FACTORIES = {factory.__name__: factory for factory in (mlp, conv, vgg, resnet)}
"""The models by name."""
