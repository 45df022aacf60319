"""VGG-11, from Simonyan and Zisserman, at any width: the net of the benchmark."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch
from torch import nn

from meristem.edit.joints import Beside, Stretch
from meristem.study.studies.grid.contender import Course, Level

WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
"""Channels of the eight convolutions."""

POOLED = (1, 2, 4, 6, 8)
"""Behind these convolutions the image is halved, as long as it can be."""

REPEATED = (4, 6, 7, 8)
"""Convolutions that may be missing in a shallow net: at one width (512 twice) they return what they are given."""


def vgg11(
    shape: Sequence[int],
    classes: int,
    widths: Sequence[int],
    norm: bool,
    without: Collection[int] = (),
    doubled: Collection[int] = (),
    own: bool = False,
) -> nn.Sequential:
    """Eight convolutions of 3 x 3 pixels with bias, with BatchNorm or without, ReLU, max pooling; one linear layer.

    "Configuration A" of Simonyan, Zisserman, arXiv 1409.1556, with the one linear layer that is usual on CIFAR-10, as
    in the code of Evci et al., arXiv 2201.05125, and Wu et al., arXiv 2102.08574. Weights begin as in He et al., arXiv
    1502.01852, equation 10; biases at 0.

    Args:
        shape: of an image: channels, height, width.
        classes: how many.
        widths: channels of the eight convolutions.
        norm: whether each is followed by a batch normalization.
        without: the numbers of convolutions that are left out.
        doubled: the numbers of convolutions that consist of two parallel ones, whose results are added.
        own: whether parallel ones have batch normalizations of their own, before the sum.
    """
    layers = OrderedDict[str, nn.Module]()
    channels, height, width = shape
    for number, outputs in enumerate(widths, start=1):
        if number not in without:
            layers[f"layer{number}"] = _layer(channels, outputs, norm, 2 if number in doubled else 1, own)
            channels = outputs
        if number in POOLED and min(height, width) > 1:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * height * width, classes)
    return nn.Sequential(layers)


def _layer(channels: int, width: int, norm: bool, branches: int, own: bool) -> nn.Sequential:
    convolutions = [nn.Conv2d(channels, width, 3, padding=1) for _ in range(branches)]
    for convolution in convolutions:
        initialize(convolution, branches)
    if own and branches > 1:
        beside = Beside(_normalized(convolution, branches) for convolution in convolutions)
        return nn.Sequential(OrderedDict[str, nn.Module](conv=beside, relu=nn.ReLU()))
    found = OrderedDict[str, nn.Module](conv=convolutions[0] if branches == 1 else Beside(convolutions))
    if norm:
        found["norm"] = nn.BatchNorm2d(width)
    found["relu"] = nn.ReLU()
    return nn.Sequential(found)


def _normalized(convolution: nn.Conv2d, branches: int) -> Stretch:
    """A convolution and its normalization, of which the results of so many are added."""
    norm = nn.BatchNorm2d(convolution.out_channels)
    nn.init.constant_(norm.weight, branches**-0.5)
    return Stretch(OrderedDict[str, nn.Module](conv=convolution, norm=norm))


def initialize(layer: nn.Module, branches: int = 1) -> None:
    """He's initialization of a layer with a bias, of which the results of so many are added."""
    weight, bias = layer.parameters()
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    nn.init.zeros_(bias)
    with torch.no_grad():
        weight.mul_(branches**-0.5)


def first_net(
    level: Level, course: Course, shape: Sequence[int], classes: int, widths: Sequence[int], norm: bool
) -> nn.Sequential:
    """The net with which a contest begins. At the level of weights it is the dense one."""
    return _net(level, course == "growing", shape, classes, widths, norm)


def last_net(
    level: Level, course: Course, shape: Sequence[int], classes: int, widths: Sequence[int], norm: bool
) -> nn.Sequential:
    """The net whose number of parameters is that with which a contest ends; of weights see `weights.DENSITIES`."""
    return _net(level, course == "shrinking", shape, classes, widths, norm)


def _net(
    level: Level, small: bool, shape: Sequence[int], classes: int, widths: Sequence[int], norm: bool
) -> nn.Sequential:
    if level == "neuron" and small:
        return vgg11(shape, classes, halved(widths), norm)
    if level == "layer" and small:
        return vgg11(shape, classes, widths, norm, without=REPEATED)
    doubled = REPEATED if level in ("cell", "normalized cell") and not small else ()
    return vgg11(shape, classes, widths, norm, doubled=doubled, own=level == "normalized cell")


def halved(widths: Sequence[int]) -> tuple[int, ...]:
    """Half of all widths."""
    return tuple(width // 2 for width in widths)
