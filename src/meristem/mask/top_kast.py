"""TopKAST: a sparse net whose candidates train along."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution, check_density
from meristem.mask.method import Patterned, check_times, every
from meristem.mask.scene import Plan, Scene
from meristem.mask.uniform import Uniform

RESERVE = "reserve"


@dataclass(frozen=True, kw_only=True)
class TopKAST(Patterned):
    """The largest weights are used; some more learn, and take their place when they have become larger.

    Jayakumar et al., "Top-KAST: Top-K Always Sparse Training", NeurIPS 2020, arXiv 2106.03517. The forward pass uses
    the set A, the share `density` of weights with the largest `|w|`; gradients move the set B, the share `backward`.
    Weights outside of A keep their values in reserve, those outside of B do not move. To gradients in B the exploration
    penalty is added: `exploration * w` in A, and `exploration * w / density` in B without A, the gradient of an L2
    term. (The form of that term is taken from a summary of the paper, not from its text.)

    Attributes:
        density: the share of weights that is used.
        backward: the share of weights that learns, at least `density` (default 0.2).
        interval: optimizer steps from one choice of A and B to the next (default 100, with which the paper is
            reported to lose no quality; that is second hand, not from its text). 1 is its basic form.
        exploration: the strength of the penalty (default 1e-4).
        distribution: over layers (default uniform).

    Needs memory for one more copy of the weights. The model's own weights, and its `state_dict`, are those of A alone.
    Fails: with `backward` near `density` nothing is explored; decoupled weight decay moves no weight outside of B.
    """

    density: float = 0.1
    backward: float = 0.2
    interval: int = 100
    exploration: float = 1e-4
    distribution: Distribution = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_times(self, self.interval, None)
        if check_density(self.backward) < check_density(self.density):
            raise ConfigError(f"backward={self.backward!r} must be at least density={self.density!r}")

    def start(self, scene: Scene) -> Plan:
        worth = {name: weight.abs() for name, weight in scene.weights.items()}
        for share in (self.density,) if self.pattern is None else (self.density, self.backward):
            scene.over(self.distribution).masks(worth, share)  # what cannot be had is refused now
        return self._chosen(scene, {name: weight.clone() for name, weight in scene.weights.items()})

    def before(self, scene: Scene) -> Plan:
        """The weights that learn but are not used come from reserve; the penalty goes to gradients."""
        values, penalties = {}, {}
        for name in scene.masks:
            waiting, there = scene.waiting(name), scene.there(name)
            reserve = scene.memory[RESERVE][name].take(waiting)
            values[name] = waiting, reserve
            if name in scene.gradients:
                used = self.exploration * scene.weights[name].take(there)
                penalty = torch.cat([used, self.exploration / self.density * reserve])
                penalties[name] = torch.cat([there, waiting]), penalty.to(scene.gradients[name])
        return Plan(entries=values, added=penalties)

    def after(self, scene: Scene) -> Plan:
        """They go back to reserve. (What is used is in the model; its entries in reserve are old.)"""
        places = {name: scene.waiting(name) for name in scene.masks}
        return Plan(kept={RESERVE: {name: (found, scene.weights[name].take(found)) for name, found in places.items()}})

    @property
    def obstacle(self) -> str | None:
        return f"it chooses all of its masks anew every {self.interval} steps, by a density of its own"

    def due(self, step: int) -> bool:
        return every(step, self.interval, None)

    def update(self, scene: Scene) -> Plan:
        reserve = scene.memory[RESERVE]
        return self._chosen(scene, {n: torch.where(scene.masks[n], w, reserve[n]) for n, w in scene.weights.items()})

    def _chosen(self, scene: Scene, reserve: dict[str, Tensor]) -> Plan:
        worth = {name: w.to(torch.promote_types(w.dtype, torch.float32)).abs() for name, w in reserve.items()}
        over = scene.over(self.distribution)
        used, learning = (over.passing(worth, share) for share in (self.density, self.backward))
        learning = {name: mask | used[name] for name, mask in learning.items()}
        return Plan(masks=used, learning=learning, values=reserve, memory={RESERVE: reserve})
