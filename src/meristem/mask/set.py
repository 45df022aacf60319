"""SET: small weights are dropped, random ones grown."""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.magnitude import Magnitude
from meristem.mask.method import Method, check_counted, check_times, every
from meristem.mask.random import Random
from meristem.mask.rewiring import check_fraction, exchanged, random_start
from meristem.mask.scene import Plan, Scene
from meristem.mask.score import Score


@dataclass(frozen=True, kw_only=True)
class SET(Method):
    """Sparse evolutionary training: in each layer a fraction of the smallest weights is exchanged for random ones.

    Mocanu et al., Nature Communications 2018, arXiv 1707.04780. `floor(fraction * n)` of a layer's n weights go, as
    many come, among all that were not kept. Grown weights start from zero (the original: random), so that growing
    preserves the function.

    Attributes:
        density: the share of weights that is there, constant in every layer.
        interval: optimizer steps from one exchange to the next; the paper's is an epoch.
        fraction: what is exchanged (default 0.3).
        end: the last step with an exchange, or None for no end.
        distribution: over layers (default ERK).
        drop: what decides who stays. `SignedMagnitude()` is the original; default `|w|`.

    Fails: random growth finds good weights slowly: at high sparsity it needs longer training than `RigL`.
    """

    density: float = 0.1
    interval: int
    fraction: float = 0.3
    end: int | None = None
    distribution: Distribution = field(default_factory=ERK)
    drop: Score = field(default_factory=Magnitude)

    def __post_init__(self) -> None:
        check_times(self, self.interval, self.end)
        check_fraction("SET(fraction=...)", self.fraction)
        check_counted(self, self.distribution)

    @property
    def wants_gradient(self) -> bool:
        return self.drop.wants_gradient

    def start(self, scene: Scene) -> Plan:
        return random_start(scene, self.distribution, self.density)

    def due(self, step: int) -> bool:
        return every(step, self.interval, self.end)

    def comes_back(self, step: int) -> bool:
        return every(step, self.interval, None)

    def update(self, scene: Scene) -> Plan:
        masks, fraction = {}, self.fraction if self.due(scene.step) else 0.0
        for name, mask in scene.masks.items():
            target = scene.targets[name]
            drop, grow = self.drop.of(scene, name), Random().of(scene, name)
            masks[name] = exchanged(mask, drop, grow, target, int(fraction * target))
        return Plan(masks=masks)
