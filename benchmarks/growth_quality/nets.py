"""The nets and the images of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

import meristem
from benchmarks.growth_quality.settings import Scale
from benchmarks.growth_quality.tasks import Task
from meristem.train.data import DataSet
from meristem.train.models import FACTORIES


def build(task: Task, options: Mapping[str, Any], data: DataSet) -> nn.Module:
    """A net with these widths; its random weights are the next of torch's global generator."""
    model = FACTORIES[task.net](data.input_shape, data.classes, **options)
    if not task.norm:
        remove_norms(model)
    return model


def remove_norms(model: nn.Module) -> None:
    """Put the biases of every BatchNorm into the convolution before it, whose weights are drawn anew after He et al.
    2015 (arXiv 1502.01852, equation 10): without norms torch's own are too small for signals to get through."""
    for module in list(model.modules()):
        children = list(module.named_children())
        for (name, first), (after, second) in pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(first.eval(), second.eval())
                nn.init.kaiming_normal_(fused.weight, nonlinearity="relu")
                setattr(module, name, fused)
                setattr(module, after, nn.Identity())


def missing_widths(task: Task, data: DataSet) -> dict[str, int]:
    """By axis name, how many units the large net has more than the small one. Torch's generator is left alone."""
    widths = task.settings.nets[task.net]
    with torch.random.fork_rng(devices=()):
        small, large = (sizes(build(task, o, data), data) for o in (widths.small, widths.large))
    return {name: large[name] - size for name, size in small.items() if large[name] > size}


def sizes(model: nn.Module, data: DataSet) -> dict[str, int]:
    """The sizes of all editable axes by name."""
    return {axis.name: axis.size for axis in meristem.trace(model, data.train_images[:2].float()).editable}


def prepared(data: DataSet, scale: Scale) -> DataSet:
    """The images that a scale uses, the first of each part, shrunk."""
    train, test = scale.images
    return replace(
        data,
        train_images=shrunk(data.train_images[:train], scale.shrink),
        train_labels=data.train_labels[:train],
        test_images=shrunk(data.test_images[:test], scale.shrink),
        test_labels=data.test_labels[:test],
    )


def on(data: DataSet, device: str) -> DataSet:
    """The same data on a device."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return replace(data, **{name: getattr(data, name).to(device) for name in names})


def shrunk(images: Tensor, factor: int) -> Tensor:
    """Averages over squares of `factor` pixels, rounded; uint8, (n, channels, height // factor, width // factor)."""
    return avg_pool2d(images.float(), factor).round().to(torch.uint8) if factor > 1 else images
