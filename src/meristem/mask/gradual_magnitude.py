"""GradualMagnitude: from dense to sparse while training goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution
from meristem.mask.everywhere import Global
from meristem.mask.method import Patterned, check_times
from meristem.mask.rewiring import cubic, magnitudes
from meristem.mask.scene import Plan, Scene


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude(Patterned):
    """The smallest weights are dropped a few at a time, many at first and few at the end; dropped ones stay away.

    Zhu, Gupta 2017, arXiv 1710.01878, equation 1, in densities:

        d_t = d_f + (d_i - d_f) * (1 - (t - begin) / (end - begin)) ** 3

    Attributes:
        density: the final density.
        first: the density at the start (default 1).
        begin, end: optimizer steps between which weights are dropped.
        interval: steps from one drop to the next (default 100); the last one is at `end`.
        distribution: over layers (default `Global`; `NM()` gives N:M patterns that thin out group by group).

    Fails: all FLOPs of the dense net are spent at first. Too early an end leaves no time to recover, too fast a
    schedule drops weights that had no time to grow.
    """

    density: float = 0.1
    first: float = 1.0
    begin: int = 0
    end: int
    interval: int = 100
    distribution: Distribution = field(default_factory=Global)

    def __post_init__(self) -> None:
        check_times(self, self.interval, self.end)
        if not 0 <= self.begin < self.end:
            raise ConfigError(f"begin={self.begin!r} must be at least 0 and before end={self.end!r}")

    def start(self, scene: Scene) -> Plan:
        scene.over(self.distribution).masks(
            magnitudes(scene), self.density
        )  # what cannot be had in the end is refused now
        return Plan(masks=scene.over(self.distribution).passing(magnitudes(scene), self.first))

    def due(self, step: int) -> bool:
        return self.begin < step <= self.end and ((step - self.begin) % self.interval == 0 or step == self.end)

    def comes_back(self, step: int) -> bool:
        return step > self.end and (step - self.begin) % self.interval == 0

    def density_at(self, step: int) -> float:
        """The density that holds after a step."""
        return cubic(step, self.begin, self.end, self.first, self.density)

    def update(self, scene: Scene) -> Plan:
        return Plan(masks=scene.over(self.distribution).passing(magnitudes(scene), self.density_at(scene.step)))
