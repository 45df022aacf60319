"""Static: masks that never change."""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.method import Patterned
from meristem.mask.random import Random
from meristem.mask.scene import Plan, Scene
from meristem.mask.score import Score


@dataclass(frozen=True, kw_only=True)
class Static(Patterned):
    """The best weights by one score, chosen before the first step and kept: the baseline of dynamic sparse training.

    Attributes:
        density: the share of weights that stays.
        distribution: over layers (default ERK).
        score: what decides: `Random()` (default), or `Magnitude()` on a trained model, which is one-shot magnitude
            pruning.

    Fails: random wiring stays as it is, however bad; at high sparsity it trains several points below `RigL`.
    """

    density: float = 0.1
    distribution: Distribution = field(default_factory=ERK)
    score: Score = field(default_factory=Random)

    def start(self, scene: Scene) -> Plan:
        return Plan(
            masks=scene.over(self.distribution).masks({n: self.score.of(scene, n) for n in scene.masks}, self.density)
        )
