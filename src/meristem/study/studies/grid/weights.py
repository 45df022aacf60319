"""Contests at the level of weights: single weights are there or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem import mask
from meristem.axes import AxisMap
from meristem.mask import Scene
from meristem.mask.rewiring import grown, kept, magnitudes, random_start
from meristem.study.studies.grid.contender import Change, Closure, Contender, Course, Setting
from meristem.train.experiment import Strict

Wiring: TypeAlias = Literal["gradient", "random"]
Named: TypeAlias = Literal["RigL", "SET", "GradualMagnitude", "GraNet"]

SPARSE = 0.25
"""The density of sparse nets: about the share of weights that nets of half the width have."""

DENSITIES: dict[Course, tuple[float, float]] = {
    "growing": (SPARSE, 1.0),
    "shrinking": (1.0, SPARSE),
    "constant": (SPARSE, SPARSE),
}
"""At the beginning and at the end."""

TURNOVER = 0.125
"""Where weights are both dropped and grown, such a share of those that are there, before and after, is exchanged."""


class Weights(Strict):
    """Weights are dropped by magnitude, grown by gradient or at random, or both.

    Attributes:
        drop: whether any are dropped (beside those that the final density asks for).
        grow: which are grown: those with the largest gradients, which is what GradMax is for single weights; or random.
        named: a method of `meristem.mask` with its own schedule instead; or None.
    """

    kind: Literal["weights"] = "weights"
    drop: bool = False
    grow: Wiring | None = None
    named: Named | None = None

    @model_validator(mode="after")
    def _either(self) -> Weights:
        if self.named is not None and (self.drop or self.grow):
            raise ValueError("a named method drops and grows by itself: give named, or drop and grow")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it."""
        return Masked(setting, self.method(setting))

    def method(self, setting: Setting) -> mask.Method:
        """The method for `Sparse`."""
        first, last = DENSITIES[setting.course]
        end, gap = round(0.75 * setting.steps), max(1, round(setting.steps / 12))
        if self.named == "RigL":
            return mask.RigL(density=last, end=end, interval=gap)
        if self.named == "SET":
            return mask.SET(density=last, end=end, interval=gap)
        if self.named == "GradualMagnitude":
            return mask.GradualMagnitude(density=last, begin=min(setting.times), end=setting.steps // 2, interval=gap)
        if self.named == "GraNet":
            return mask.GraNet(density=last, first=first, end=setting.steps // 2, interval=gap)
        if self.grow is None and not self.drop:
            return mask.Static(density=last)
        return Rewired(first=first, last=last, times=setting.times, drop=self.drop, grow=self.grow)


@dataclass(frozen=True, kw_only=True)
class Rewired(mask.Method):
    """At given steps the density goes on to its final value in equal steps, and weights are exchanged.

    Attributes:
        first, last: densities, before the first and after the last of the times; at first weights are at random places.
        times: optimizer steps.
        drop: whether, if weights are grown too, an eighth of them is dropped to be grown elsewhere.
        grow: who is grown; None: nobody.
    """

    first: float
    last: float
    times: tuple[int, ...]
    drop: bool
    grow: Wiring | None

    @property
    def wants_gradient(self) -> bool:
        return self.grow == "gradient"

    def start(self, scene: Scene) -> mask.Plan:
        return random_start(scene, mask.Uniform(), self.first)

    def due(self, step: int) -> bool:
        return step in self.times

    def update(self, scene: Scene) -> mask.Plan:
        done = sum(time <= scene.step for time in self.times) / len(self.times)
        density = self.first + (self.last - self.first) * done
        worth, score = magnitudes(scene), mask.Gradient() if self.grow == "gradient" else mask.Random()
        masks: dict[str, Tensor] = {}
        for name, there in scene.masks.items():
            target = round(density * there.numel())
            least = min(target, int(there.count_nonzero()))
            turnover = round(TURNOVER * least) if self.drop and self.grow else 0
            stay = kept(there, worth[name], least - turnover)
            missing = target - int(stay.count_nonzero())
            masks[name] = grown(stay, score.of(scene, name), missing) if self.grow and missing > 0 else stay
        return mask.Plan(masks=masks)


class Masked(Contender):
    """Sparse training. Without batch normalization weights begin larger, by one over the root of their layer's density:
    He's rule counts inputs that are there, and nothing would get through eight sparse layers otherwise.

    Args:
        setting: of the contest.
        method: which weights are there.
    """

    in_step = True

    def __init__(self, setting: Setting, method: mask.Method) -> None:
        self._axes, self._method = setting.axes, method
        self._sparse = mask.Sparse(setting.model, setting.optimizer, method, seed=setting.seed)
        self._before = dict(self._sparse.masks)
        if not setting.norm:
            with torch.no_grad():
                for name, density in self._sparse.masks.densities.items():
                    self._sparse.masks.parameter(name).mul_(density**-0.5)

    @property
    def axes(self) -> AxisMap:
        return self._axes

    def edits(self, step: int) -> bool:
        return self._method.due(step)

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        if self._sparse.updated != step:
            return None
        now, before = dict(self._sparse.masks), self._before
        self._before = now
        return _without(now, before), _without(before, now)

    def copied(self, model: nn.Module, optimizer: Optimizer) -> None:
        mask.Sparse(model, optimizer, mask.Fixed(masks=self._before))

    def weights(self) -> int:
        gone = sum(there.numel() - int(there.count_nonzero()) for there in self._sparse.masks.values())
        return self._axes.parameter_count() - gone


def _without(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> dict[str, int]:
    """How many weights are in these masks but not in those, by name."""
    return {name: int((there & ~those[name]).count_nonzero()) for name, there in these.items()}
