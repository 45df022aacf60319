"""Contests at the level of weights: single weights are there or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem import mask
from meristem.axes import AxisMap
from meristem.study.studies.grid.contender import Change, Closure, Contender, Course, Setting, Timing
from meristem.study.studies.grid.rewired import Paced, Rewired, Wiring
from meristem.train.experiment import Strict

Named: TypeAlias = Literal["RigL", "SET", "GradualMagnitude", "GraNet"]

SPARSE = 0.25
"""The density of sparse nets: about the share of weights that nets of half the width have."""

DENSITIES: dict[Course, tuple[float, float]] = {
    "growing": (SPARSE, 1.0),
    "shrinking": (1.0, SPARSE),
    "constant": (SPARSE, SPARSE),
}
"""At the beginning and at the end."""


class Weights(Strict):
    """Weights are dropped by magnitude, grown by gradient or at random, or both.

    Attributes:
        drop: whether any are dropped (beside those that the final density asks for).
        grow: which are grown: those with the largest gradients, which is what GradMax is for single weights; or random.
        schedule: `fixed`: that of the protocol. `own`: what is grown comes along RigL's half cosine, and exchanges
            shrink along it, down to none; what is dropped beyond that goes along the cubic curve of gradual magnitude.
        named: a method of `meristem.mask` with its own schedule instead; or None.
    """

    kind: Literal["weights"] = "weights"
    drop: bool = False
    grow: Wiring | None = None
    schedule: Timing = "fixed"
    named: Named | None = None

    @model_validator(mode="after")
    def _either(self) -> Weights:
        if self.named is not None and (self.drop or self.grow or self.schedule == "own"):
            raise ValueError("a named method drops and grows by itself: give named, or drop, grow and schedule")
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
        if self.schedule == "own":
            begin, end = (min(setting.times), setting.steps // 2) if first > last else (0, end)
            return Paced(first=first, last=last, drop=self.drop, grow=self.grow, begin=begin, end=end, interval=gap)
        return Rewired(first=first, last=last, times=setting.times, drop=self.drop, grow=self.grow)


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
