"""SNFS: small weights are dropped, and grown where momentum is."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar

from meristem.mask.best import shared
from meristem.mask.distribution import Distribution
from meristem.mask.magnitude import Magnitude
from meristem.mask.method import Method, check_counted, check_times, every
from meristem.mask.momentum import Momentum
from meristem.mask.rewiring import check_fraction, cosine, grown, kept, random_start
from meristem.mask.scene import Plan, Scene
from meristem.mask.uniform import Uniform


@dataclass(frozen=True, kw_only=True)
class SNFS(Method):
    """Sparse networks from scratch ("sparse momentum"): freed weights go to the layers with the largest momentum.

    Dettmers, Zettlemoyer 2019, arXiv 1907.04840. In each layer `ceil(f n)` of the smallest weights are dropped, f from
    `fraction` to `last` by a cosine. All that were dropped are shared out in proportion to the mean `|momentum|` of
    each layer's weights, as far as a layer has room, and grown where `|momentum|` is largest. The total is constant,
    layers are not. Grown weights start from zero and go on with their momentum.

    The momentum of weights that are not there must live on: gradients and optimizer state stay dense at all steps. Not
    taken over from the code: layers denser than 80 % are not spared, and nothing is left over by rounding.

    Attributes:
        density: the share of all weights that is there.
        interval: optimizer steps from one exchange to the next; the paper's is an epoch.
        end: the step at which the cosine, and exchanges, end.
        fraction, last: what is exchanged at first (default 0.5) and at the end (0.005).
        distribution: over layers at the start (default uniform).

    Fails: without a momentum it is undefined; with Adam the scores of layers are hardly comparable in scale.
    """

    dense_state: ClassVar[bool] = True

    density: float = 0.1
    interval: int
    end: int
    fraction: float = 0.5
    last: float = 0.005
    distribution: Distribution = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_times(self, self.interval, self.end)
        check_fraction("SNFS(fraction=...)", self.fraction)
        check_fraction("SNFS(last=...)", self.last)
        check_counted(self, self.distribution)

    def start(self, scene: Scene) -> Plan:
        return random_start(scene, self.distribution, self.density)

    def due(self, step: int) -> bool:
        return every(step, self.interval, self.end)

    def comes_back(self, step: int) -> bool:
        return every(step, self.interval, None)

    def update(self, scene: Scene) -> Plan:
        fraction = cosine(scene.step, self.end, self.fraction, self.last) if self.due(scene.step) else 0.0
        stay, momentum, wishes = {}, {}, []
        for name, mask in scene.masks.items():
            target, momentum[name] = scene.targets[name], Momentum().of(scene, name)
            stay[name] = kept(mask, Magnitude().of(scene, name), max(1, target - ceil(fraction * target)))
            wishes.append(float(momentum[name][mask].mean()) if bool(mask.any()) else 0.0)
        freed = sum(scene.targets.values()) - sum(int(mask.count_nonzero()) for mask in stay.values())
        room = [int((~mask).sum()) for mask in stay.values()]
        counts = shared(freed, wishes, room)
        return Plan(masks={n: grown(m, momentum[n], k) for (n, m), k in zip(stay.items(), counts, strict=True)})
