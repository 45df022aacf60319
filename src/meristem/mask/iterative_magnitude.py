"""IterativeMagnitude: train, drop small weights, go back, train again."""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution
from meristem.mask.everywhere import Global
from meristem.mask.method import Patterned, check_times
from meristem.mask.rewiring import check_fraction, magnitudes
from meristem.mask.scene import Plan, Scene

REWIND = "rewind"


@dataclass(frozen=True, kw_only=True)
class IterativeMagnitude(Patterned):
    """Lottery tickets: after each training a fraction of the smallest weights goes, and the rest goes back to step k.

    Frankle, Carbin, ICLR 2019, arXiv 1803.03635; Frankle et al. 2019, arXiv 1903.01611 (rewinding). The first training
    takes `interval` steps, each of the others `interval - rewind`. At its end weights are dropped by `|w|` so that
    `(1 - fraction) ** r` of all are left after round r, also where units were grown meanwhile; all parameters and
    buffers take the values that they had after step `rewind`, and optimizers forget their state. Begin the learning
    rate's schedule again when `sparsity.updated == sparsity.steps`.

    Attributes:
        interval: optimizer steps of the first training.
        rewind: the step to go back to; 0 is initialization.
        fraction: what is dropped each time (default 0.2).
        rounds: how often (default 10: a density of 0.11).
        distribution: over layers (default `Global`).

    Needs memory for one more copy of the model. Fails: it costs as many trainings as rounds; on large nets going back
    to initialization loses the ticket, a little later does not. Units that are grown after the last round stay dense.
    """

    interval: int
    rewind: int = 0
    fraction: float = 0.2
    rounds: int = 10
    distribution: Distribution = field(default_factory=Global)

    def __post_init__(self) -> None:
        check_times(self, self.interval, None)
        check_fraction("IterativeMagnitude(fraction=...)", self.fraction)
        if not 0 <= self.rewind < self.interval:
            raise ConfigError(f"rewind={self.rewind!r} must be at least 0 and before interval={self.interval!r}")

    def start(self, scene: Scene) -> Plan:
        memory = {REWIND: _copy(scene)} if self.rewind == 0 else {}
        return Plan(masks=dict(scene.masks), memory=memory)

    def due(self, step: int) -> bool:
        return step == self.rewind or self._ends(step)

    def update(self, scene: Scene) -> Plan:
        if not self._ends(scene.step):
            return Plan(memory={REWIND: _copy(scene)})
        there = sum(int(mask.count_nonzero()) for mask in scene.masks.values())
        total = sum(mask.numel() for mask in scene.masks.values())
        done = (scene.step - self.rewind) // (self.interval - self.rewind)
        left = min(there, round((1 - self.fraction) ** done * total))
        masks = scene.over(self.distribution).passing(magnitudes(scene), left / total)
        return Plan(masks=masks, values=scene.memory[REWIND], forget=True)

    def _ends(self, step: int) -> bool:
        length = self.interval - self.rewind
        return self.rewind < step <= self.rewind + self.rounds * length and (step - self.rewind) % length == 0


def _copy(scene: Scene) -> dict:
    return {name: tensor.clone() for name, tensor in scene.tensors.items()}
