"""Weights are dropped and grown: on the protocol's fixed schedule, and on those that belong to methods."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from meristem import mask
from meristem.mask import Scene
from meristem.mask.method import every
from meristem.mask.rewiring import cosine, cubic, grown, kept, magnitudes, random_start
from meristem.study.studies.grid.contender import TURNOVER

Wiring: TypeAlias = Literal["gradient", "random"]

EXCHANGED = 0.3
"""The first exchange of RigL's own schedule."""


@dataclass(frozen=True, kw_only=True)
class _Rewiring(mask.Method):
    """The density goes from one value to another, and weights are exchanged.

    Attributes:
        first, last: densities; at first weights are at random places.
        drop: whether, if weights are grown too, some are dropped to be grown elsewhere.
        grow: who is grown; None: nobody.
    """

    first: float
    last: float
    drop: bool
    grow: Wiring | None

    @property
    def wants_gradient(self) -> bool:
        return self.grow == "gradient"

    def start(self, scene: Scene) -> mask.Plan:
        return random_start(scene, mask.Uniform(), self.first)

    @abstractmethod
    def density(self, step: int) -> float:
        """After a step."""

    @abstractmethod
    def turnover(self, step: int) -> float:
        """Which share of the weights that are there, before and after, is exchanged."""

    def update(self, scene: Scene) -> mask.Plan:
        density, share = self.density(scene.step), self.turnover(scene.step) if self.drop and self.grow else 0.0
        worth, score = magnitudes(scene), mask.Gradient() if self.grow == "gradient" else mask.Random()
        masks: dict[str, Tensor] = {}
        for name, there in scene.masks.items():
            target = round(density * there.numel())
            least = min(target, int(there.count_nonzero()))
            stay = kept(there, worth[name], least - round(share * least))
            missing = target - int(stay.count_nonzero())
            masks[name] = grown(stay, score.of(scene, name), missing) if self.grow and missing > 0 else stay
        return mask.Plan(masks=masks)


@dataclass(frozen=True, kw_only=True)
class Rewired(_Rewiring):
    """At given steps the density goes on to its final value in equal steps, and an eighth is exchanged, of the weights
    that are there before and after.

    Attributes:
        times: optimizer steps.
    """

    times: tuple[int, ...]

    def due(self, step: int) -> bool:
        return step in self.times

    def density(self, step: int) -> float:
        return self.first + (self.last - self.first) * sum(time <= step for time in self.times) / len(self.times)

    def turnover(self, step: int) -> float:
        return TURNOVER


@dataclass(frozen=True, kw_only=True)
class Paced(_Rewiring):
    """The density rises along half a cosine, or falls along a cubic curve; the share that is exchanged falls to none.

    Exchanges are RigL's (Evci et al., arXiv 1911.11134): 0.3 of the weights at first, less and less along half a
    cosine. A density that falls is that of gradual magnitude (Zhu, Gupta, arXiv 1710.01878, equation 1). That one that
    rises follows the half cosine of exchanges is ours.

    Attributes:
        begin, end: between these steps.
        interval: from one edit to the next; the last one is at the end.
    """

    begin: int
    end: int
    interval: int

    def due(self, step: int) -> bool:
        return step == self.end or every(step, self.interval, self.end, self.begin)

    def density(self, step: int) -> float:
        if self.first > self.last:
            return cubic(step, self.begin, self.end, self.first, self.last)
        return cosine(step - self.begin, self.end - self.begin, self.first, self.last)

    def turnover(self, step: int) -> float:
        return cosine(step - self.begin, self.end - self.begin, EXCHANGED)
