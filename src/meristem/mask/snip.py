"""SNIP: masks before training, by how much the loss depends on each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution
from meristem.mask.everywhere import Global
from meristem.mask.method import Patterned
from meristem.mask.scene import Plan, Scene
from meristem.signals.ranks import distributed


@dataclass(frozen=True, kw_only=True)
class SNIP(Patterned):
    """Single-shot pruning: those weights stay, from the start to the end, whose `|w * dL / dw|` is largest.

    Lee, Ajanthan, Torr, ICLR 2019, arXiv 1810.02340, equation 6: the derivative of the loss in a factor on the weight.
    `Sparse(..., closure=)` computes the loss of one batch, with batch normalizations in train mode. In a distributed
    run it is evaluated on all ranks, each with its part of the batch.

    Attributes:
        density: the share of weights that stays.
        distribution: over layers (default `Global`).

    Fails: one batch at initialization knows little; at densities below a few percent whole layers are nearly cut, which
    passes no gradient. It depends on the scale of initialization.
    """

    requires_closure: ClassVar[bool] = True

    density: float = 0.1
    distribution: Distribution = field(default_factory=Global)

    def start(self, scene: Scene) -> Plan:
        with loss_of(scene) as loss:
            gradients = over_ranks(derivative(loss, scene, create_graph=False))
        worth = {name: (gradients[name] * weight).abs() for name, weight in scene.weights.items()}
        return Plan(masks=scene.over(self.distribution).masks(worth, self.density))


@contextmanager
def loss_of(scene: Scene) -> Iterator[Tensor]:
    """The loss that the closure computes, with its graph. Buffers, and the states of torch's generators, are afterwards
    as they were."""
    if scene.closure is None:
        raise ConfigError("this method evaluates the training loss: give Sparse(..., closure=lambda: loss of a batch)")
    buffers = [(tensor, tensor.clone()) for name, tensor in scene.tensors.items() if name not in scene.parameters]
    devices = sorted({p.device.index for p in scene.parameters.values() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        try:
            yield scene.closure()
        finally:
            with torch.no_grad():
                for tensor, value in buffers:
                    tensor.copy_(value)


def derivative(value: Tensor, scene: Scene, *, create_graph: bool) -> dict[str, Tensor]:
    """The derivative of a number in every masked parameter. Raises `ConfigError` if it does not depend on one."""
    names, parameters = zip(*scene.parameters.items(), strict=True)
    found = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
    unused = [name for name, gradient in zip(names, found, strict=True) if gradient is None]
    if unused:
        raise ConfigError(f"the loss does not depend on {unused[0]}; leave it out with `parameters=`")
    return dict(zip(names, found, strict=True))


def over_ranks(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the ranks of a distributed run, so that all of them choose the same; without graphs."""
    found = {name: gradient.detach().contiguous() for name, gradient in gradients.items()}
    if distributed():
        for gradient in found.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return found
