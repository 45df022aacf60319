"""DeepR: weights walk at random, and are dropped when they change their sign."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.method import Method, check_counted
from meristem.mask.random import Random
from meristem.mask.rewiring import grown, random_start
from meristem.mask.scene import Plan, Scene

SIGN = "sign"


@dataclass(frozen=True, kw_only=True)
class DeepR(Method):
    """Deep rewiring: a weight is `sign * theta` with a sign that is drawn once for every possible weight.

    Bellec, Kappel, Maass, Legenstein, ICLR 2018, arXiv 1711.05136, algorithm 1. After every optimizer step, which moved
    theta by the gradient, with the learning rate eta of the parameter's group and normal numbers nu:

        theta <- theta - eta * penalty + eta * noise * nu      for weights that are there
        dropped: theta < 0;  grown: as many others at random, at theta = 1e-12

    so counts of layers are constant. The paper writes the noise as `sqrt(2 eta T) nu`; the form here is that of its
    code, T = eta * noise ** 2 / 2.

    Attributes:
        density: the share of weights that is there.
        penalty: the prior's strength alpha (default 1e-5, the code's).
        noise: default 1e-5, the code's.
        distribution: over layers (default ERK).

    Fails: it draws as many random numbers as there are weights at every step, and exchanges weights slowly where their
    gradients are small. Optimizers with momentum carry dropped weights' momentum no further. Below 1e-12 lies nothing
    in float16: a weight grown there starts from zero.
    """

    density: float = 0.1
    penalty: float = 1e-5
    noise: float = 1e-5
    distribution: Distribution = field(default_factory=ERK)

    def __post_init__(self) -> None:
        check_counted(self, self.distribution)

    def start(self, scene: Scene) -> Plan:
        masks = random_start(scene, self.distribution, self.density).masks
        signs, values = {}, {}
        for name, weight in scene.weights.items():
            drawn = torch.where(scene.uniform(name, "sign") < 0.5, -1.0, 1.0).to(weight.dtype)
            signs[name], values[name] = drawn, drawn * weight.abs()
        return Plan(masks=masks, values=values, memory={SIGN: signs})

    def due(self, step: int) -> bool:
        return True

    def update(self, scene: Scene) -> Plan:
        masks, values, signs = {}, {}, {}
        for name, mask in scene.masks.items():
            weight, sign = scene.weights[name], scene.memory[SIGN][name].sign()
            rate = float(scene.groups[name]["lr"])
            sign = torch.where(sign == 0, weight.sign(), sign)  # newborns that started from zero
            theta = sign * weight - rate * self.penalty
            theta = theta + rate * self.noise * scene.normal(name, "walk").to(weight)
            stay = mask & ((theta >= 0) | (sign == 0))
            count = min(scene.targets[name], mask.numel())
            masks[name] = grown(stay, Random().of(scene, name), count - int(stay.count_nonzero()))
            random_sign = torch.where(scene.uniform(name, "sign") < 0.5, -1.0, 1.0).to(weight)
            signs[name] = torch.where((sign == 0) & masks[name] & ~stay, random_sign, sign)
            values[name] = torch.where(stay, sign * theta, 1e-12 * signs[name])
        return Plan(masks=masks, values=values, memory={SIGN: signs})
