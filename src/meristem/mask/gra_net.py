"""GraNet: gradual pruning that lets weights come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from meristem.errors import ConfigError
from meristem.mask.distribution import Counted, Distribution
from meristem.mask.erk import ERK
from meristem.mask.everywhere import Global
from meristem.mask.gradient import Gradient
from meristem.mask.method import Method, check_counted, check_times
from meristem.mask.rewiring import check_fraction, cosine, cubic, exchanged, magnitudes, random_start
from meristem.mask.scene import Plan, Scene


@dataclass(frozen=True, kw_only=True)
class GraNet(Method):
    """Gradual magnitude pruning over the whole net, and in each layer an exchange by gradients after every drop.

    Liu et al., NeurIPS 2021, arXiv 2106.10404. Every `interval` steps, after the gradient step:

        1. up to `end`: the density of the whole net falls as in `GradualMagnitude`, by |w| over all layers
        2. in each layer `ceil(f n)` of the smallest weights are exchanged for those with the largest |dL / dw|,
           f from `fraction` to 0.005 by a cosine over `last` steps

    Grown weights start from zero. Counts are exact also where weights are equal: the reference drops all that do not
    exceed a threshold, so that weights that are zero never make a layer dense.

    Attributes:
        density: the final density.
        first: at the start: 0.5 (default, weights at random places by ERK) or 1.
        end: the step at which the density is reached.
        last: the last step with an exchange; None (default) for `end`. The paper goes on to the end of training.
        interval: steps between updates (default 1000; the paper: 1000 on CIFAR, 4000 on ImageNet).
        fraction: of the first exchange (default 0.5).
        distribution: over layers as the density falls (default `Global`).
        start_distribution: over layers at the start (default ERK).

    Fails: as `RigL` where gradients are noisy, and as `Global` where scales of layers differ.
    """

    density: float = 0.1
    first: float = 0.5
    end: int
    last: int | None = None
    interval: int = 1000
    fraction: float = 0.5
    distribution: Counted = field(default_factory=Global)
    start_distribution: Distribution = field(default_factory=ERK)

    def __post_init__(self) -> None:
        check_times(self, self.interval, self.end)
        check_fraction("GraNet(fraction=...)", self.fraction)
        check_counted(self, self.distribution, self.start_distribution)
        if self.last is not None and self.last < self.end:
            raise ConfigError(f"last={self.last!r} must not be before end={self.end!r}")

    @property
    def wants_gradient(self) -> bool:
        return True

    @property
    def _last(self) -> int:
        return self.end if self.last is None else self.last

    def start(self, scene: Scene) -> Plan:
        self.distribution.masks(magnitudes(scene), self.density)  # what cannot be had in the end is refused now
        return random_start(scene, self.start_distribution, self.first)

    def due(self, step: int) -> bool:
        return step <= self._last and (step % self.interval == 0 or step == self.end)

    def comes_back(self, step: int) -> bool:
        return step > self._last and step % self.interval == 0

    def update(self, scene: Scene) -> Plan:
        worth, masks = magnitudes(scene), {}
        density = cubic(scene.step, 0, self.end, self.first, self.density)
        targets = self.distribution.counts(worth, density) if scene.step <= self.end else scene.targets
        fraction = (
            cosine(scene.step, self._last, self.fraction, min(0.005, self.fraction)) if self.due(scene.step) else 0.0
        )
        for name, mask in scene.masks.items():  # at once what the drop leaves and what the exchange keeps of it
            turnover = ceil(fraction * targets[name])
            masks[name] = exchanged(mask, worth[name], Gradient().of(scene, name), targets[name], turnover)
        return Plan(masks=masks)
