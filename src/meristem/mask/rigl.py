"""RigL: small weights are dropped, those with large gradients grown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.gradient import Gradient
from meristem.mask.magnitude import Magnitude
from meristem.mask.method import Method, check_counted, check_times, every
from meristem.mask.rewiring import check_fraction, cosine, exchanged, random_start
from meristem.mask.scene import Plan, Scene
from meristem.mask.score import Score


@dataclass(frozen=True, kw_only=True)
class RigL(Method):
    """Rigged lottery: a falling fraction of the smallest weights is exchanged for those with the largest gradients.

    Evci, Gale, Menick, Castro, Elsen, ICML 2020, arXiv 1911.11134, algorithm 1. Every `interval` steps, before `end`:

        f(t) = fraction / 2 * (1 + cos(pi t / end))
        kept = the n - floor(f n) weights of a layer with the largest |w| + noise
        grown = of all others those with the largest |dL / dw|, the dense gradient of this step's batch

    The exchange takes the place of the gradient step: no parameter moves at that step. Grown weights start from zero,
    with no momentum, so the function is preserved by growing; a weight that is dropped and grown at once keeps its
    value. Counts of layers are constant.

    Attributes:
        density: the share of weights that is there.
        end: the step at which exchanges end; the paper's choice is 75 % of training.
        interval: optimizer steps from one exchange to the next (default 100).
        fraction: of the first exchange (default 0.3).
        distribution: over layers (default ERK).
        drop, grow: the scores; by default the paper's.

    Fails: the gradient of one small batch is noisy; with a long interval dropped weights never recover, with a short
    one grown weights are dropped before they have learned.
    """

    replaces_step: ClassVar[bool] = True

    density: float = 0.1
    end: int
    interval: int = 100
    fraction: float = 0.3
    distribution: Distribution = field(default_factory=ERK)
    drop: Score = field(default_factory=lambda: Magnitude(noise=1e-5))
    grow: Score = field(default_factory=Gradient)

    def __post_init__(self) -> None:
        check_times(self, self.interval, self.end)
        check_fraction("RigL(fraction=...)", self.fraction)
        check_counted(self, self.distribution)

    @property
    def wants_gradient(self) -> bool:
        return self.drop.wants_gradient or self.grow.wants_gradient

    def start(self, scene: Scene) -> Plan:
        return random_start(scene, self.distribution, self.density)

    def due(self, step: int) -> bool:
        return every(step, self.interval, self.end - 1)

    def comes_back(self, step: int) -> bool:
        return every(step, self.interval, None)

    def update(self, scene: Scene) -> Plan:
        fraction = cosine(scene.step, self.end, self.fraction)
        masks = {}
        for name, mask in scene.masks.items():
            target = scene.targets[name]
            drop, grow = self.drop.of(scene, name), self.grow.of(scene, name)
            masks[name] = exchanged(mask, drop, grow, target, int(fraction * target))
        return Plan(masks=masks)
