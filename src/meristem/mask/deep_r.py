"""DeepR: weights walk at random, and are dropped when they change their sign."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from meristem.mask.best import places_of, top
from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.method import Method, check_counted
from meristem.mask.rewiring import outside, random_start
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

    A layer with more weights than it is to have, after a structural edit, drops those with the smallest theta, too.

    Fails: every step is an update: it costs a walk of the weights that are there. It exchanges weights slowly where
    their gradients are small. Optimizers with momentum carry dropped weights' momentum no further. Below 1e-12 lies
    nothing in float16: a weight grown there starts from zero.
    """

    by_places: ClassVar[bool] = True

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
        swaps, entries, signs = {}, {}, {}
        for name, mask in scene.masks.items():
            places, weight = scene.there(name), scene.weights[name]
            there, drawn = weight.take(places), scene.memory[SIGN][name].take(places)
            sign = drawn.sign()
            sign = torch.where(sign == 0, there.sign(), sign)  # newborns that started from zero
            rate = float(scene.groups[name]["lr"]) if name in scene.groups else 0.0  # nobody trains it (yet)
            theta = sign * there - rate * self.penalty
            theta = theta + rate * self.noise * scene.normal(name, "walk", len(places)).to(weight)
            stay = (theta >= 0) | (sign == 0)
            target = min(scene.targets[name], mask.numel())
            if int(stay.count_nonzero()) > target:  # after a structural edit
                stay = top(theta, target, stay)
            gone, missing = places.take(places_of(~stay)), target - int(stay.count_nonzero())
            born, given = places[:0], there[:0]
            if missing:
                held = mask.clone().put_(gone, mask.new_zeros(len(gone)))
                born = outside(held, missing, scene.source(name, "grow"))
                given = scene.memory[SIGN][name].take(born).sign()
                given = torch.where(given == 0, _drawn(scene, name, len(born)), given)
            if len(gone) or len(born):
                swaps[name] = gone, born, 1e-12 * given
            entries[name] = places, sign * theta
            news = places_of(drawn != sign)
            signs[name] = torch.cat([places.take(news), born]), torch.cat([sign.take(news), given])
        return Plan(swaps=swaps, entries=entries, kept={SIGN: signs})


def _drawn(scene: Scene, name: str, count: int) -> Tensor:
    """Signs at random."""
    numbers = torch.rand(count, generator=scene.source(name, "sign"), device="cpu")
    return torch.where(numbers < 0.5, -1.0, 1.0).to(scene.weights[name])
