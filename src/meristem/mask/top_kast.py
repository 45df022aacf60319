"""TopKAST: a sparse net whose candidates train along."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution, check_density
from meristem.mask.method import Patterned, check_times
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
        interval: optimizer steps from one choice of A and B to the next (default 1).
        exploration: the strength of the penalty (default 1e-4).
        distribution: over layers (default uniform).

    Needs memory for one more copy of the weights. The model's own weights, and its `state_dict`, are those of A alone.
    Fails: with `backward` near `density` nothing is explored; decoupled weight decay moves no weight outside of B.
    """

    density: float = 0.1
    backward: float = 0.2
    interval: int = 1
    exploration: float = 1e-4
    distribution: Distribution = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_times(self, self.interval, None)
        if check_density(self.backward) < check_density(self.density):
            raise ConfigError(f"backward={self.backward!r} must be at least density={self.density!r}")

    def start(self, scene: Scene) -> Plan:
        worth = {name: weight.abs() for name, weight in scene.weights.items()}
        for share in (self.density,) if self.pattern is None else (self.density, self.backward):
            self.distribution.masks(worth, share)  # what cannot be had is refused now
        return self._chosen({name: weight.clone() for name, weight in scene.weights.items()})

    def before(self, scene: Scene) -> Plan:
        values, gradients = {}, {}
        for name, used in scene.masks.items():
            values[name] = torch.where(used, scene.weights[name], scene.memory[RESERVE][name])
            if name in scene.gradients:
                strength = torch.where(used, self.exploration, self.exploration / self.density).to(values[name])
                gradients[name] = scene.gradients[name] + strength * values[name]
        return Plan(values=values, gradients=gradients)

    @property
    def obstacle(self) -> str | None:
        return f"it chooses all of its masks anew every {self.interval} steps, by a density of its own"

    def due(self, step: int) -> bool:
        return True

    def update(self, scene: Scene) -> Plan:
        reserve = {}
        for name, weight in scene.weights.items():
            reserve[name] = torch.where(scene.learning[name], weight, scene.memory[RESERVE][name])
        if scene.step % self.interval:
            return Plan(masks=scene.masks, learning=scene.learning, memory={RESERVE: reserve})
        return self._chosen(reserve)

    def _chosen(self, reserve: dict) -> Plan:
        worth = {name: w.to(torch.promote_types(w.dtype, torch.float32)).abs() for name, w in reserve.items()}
        used, learning = (self.distribution.passing(worth, share) for share in (self.density, self.backward))
        learning = {name: mask | used[name] for name, mask in learning.items()}
        return Plan(masks=used, learning=learning, values=reserve, memory={RESERVE: reserve})
