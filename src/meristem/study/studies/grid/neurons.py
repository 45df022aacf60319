"""Contests at the level of neurons: channels of convolutions are born and die."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from meristem.allocate import Allocator, Limits, Proportional, Ranked
from meristem.axes import AxisMap
from meristem.plasticity import Plasticity
from meristem.prune import BatchNormScale, Criterion, Magnitude, Polarization
from meristem.recipes import early_growth
from meristem.schedule import At, Every, Schedule, Together
from meristem.study.studies.grid.contender import LISTEN, Contender, Controlled, Setting, Still
from meristem.study.studies.grid.insertion import Growing, Insertion, helpers, method
from meristem.train.experiment import Strict

Pruning: TypeAlias = Literal["L1", "polarization"]

TURNOVER = 0.125
"""Where units are born and die, so many of the final ones die at least, and are born at least, in every edit."""

EARLY, LATE = 10_000 / 78_200, 37_500 / 78_200
"""When GradMax's code begins and ends to grow VGG-11, as a share of its training (200 epochs of 391 steps)."""

BEGIN = 0.5
"""Where scales of batch normalizations begin under polarization, as in the paper."""


class Neurons(Strict):
    """Units are born, die, or both, by a method, a criterion and a schedule.

    Attributes:
        grow: who is born. GradMax, GradMax-Opt, Firefly, random (GradMax's baseline), Mitosis; None: nobody.
        prune: who dies: filters with the smallest L1 norm, or under the polarization penalty those with the smallest
            scales; None: nobody.
        insertion: see `insertion.method`.
        schedule: `fixed`: that of the protocol. `own`: that which belongs to the method.
        strength: of the polarization penalty.
    """

    kind: Literal["neurons"] = "neurons"
    grow: Growing | None = None
    prune: Pruning | None = None
    insertion: Insertion = "published"
    schedule: Literal["fixed", "own"] = "fixed"
    strength: float = Field(default=3e-5, ge=0)

    @model_validator(mode="after")
    def _one_owner(self) -> Neurons:
        if self.schedule == "own" and self.grow is not None and self.prune is not None:
            raise ValueError("a schedule belongs to a growth method or to a criterion: give one of them")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it. Raises `EditError` if method or criterion are not defined for the net."""
        if self.prune == "polarization":
            return _Polarizing(setting, self)
        if self.grow is None and self.prune is None:
            return Still(setting.axes)
        return Controlled(*_controller(setting, self))


def _controller(setting: Setting, way: Neurons) -> tuple[Plasticity, Schedule]:
    if way.schedule == "own" and way.grow == "Mitosis":
        return _early(setting)
    made: list[Plasticity] = []

    def today() -> AxisMap:
        return made[0].axes if made else setting.axes

    schedule = _own(setting, way) if way.schedule == "own" else _fixed(setting, way, today)
    gate = max(1, round(0.05 * setting.steps))
    made.append(
        Plasticity(
            setting.model,
            setting.optimizer,
            setting.axes,
            schedule=schedule,
            grow=None if way.grow is None else method(way.grow, setting.norm, way.insertion, setting.tries),
            prune=_criterion(way),
            allocate=_allocator(way),
            integrate=helpers(way.grow, setting.norm, way.insertion, gate) if way.grow else None,
            axes=list(setting.sizes),
            listen=LISTEN,
            seed=setting.seed,
        )
    )
    return made[0], schedule


def _criterion(way: Neurons) -> Criterion | None:
    return {None: None, "L1": Magnitude(p=1), "polarization": BatchNormScale()}[way.prune]


def _allocator(way: Neurons) -> Allocator:
    """Polarization's own: one ranking of all scales, as in the paper; else every layer keeps its share."""
    if way.schedule == "own" and way.prune == "polarization":
        return Ranked(limits=Limits(minimum=1))
    return Proportional()


def fixed(setting: Setting, grow: bool, prune: bool, today: Callable[[], AxisMap]) -> Schedule:
    """The protocol's schedule: deaths at its times, births with them, or where both happen `LISTEN` steps later (before
    the next time).

    Sizes go from first to last in equal steps. If units both are born and die, an eighth of the final ones (at least
    one) does the lesser of both.

    Args:
        setting: of the contest.
        grow, prune: what happens.
        today: gives today's map.
    """
    both = grow and prune
    extra = {name: max(1, round(TURNOVER * max(sizes))) if both else 0 for name, sizes in setting.sizes.items()}
    gaps = [later - earlier for earlier, later in pairwise(setting.times)]
    delay = max(1, min([LISTEN, *(gap - 1 for gap in gaps)])) if both else 0

    def goal(name: str, step: int) -> int:
        first, last = setting.sizes[name]
        return round(setting.reached(first, last, sum(time <= step for time in setting.times)))

    def deaths(step: int) -> dict[str, int]:
        axes = today()
        surplus = {name: axes.by_name[name].size - goal(name, step) for name in setting.sizes}
        return _some({name: max(0, surplus[name]) + extra[name] for name in surplus})

    def births(step: int) -> dict[str, int]:
        axes = today()
        return _some({name: goal(name, step) - axes.by_name[name].size for name in setting.sizes})

    parts: list[Schedule] = []
    if prune:
        parts.append(At(setting.times, prune=deaths))
    if grow:
        parts.append(At([time + delay for time in setting.times], grow=births))
    return Together(tuple(parts)) if both else parts[0]


def _fixed(setting: Setting, way: Neurons, today: Callable[[], AxisMap]) -> Schedule:
    return fixed(setting, way.grow is not None, way.prune is not None, today)


@dataclass(frozen=True)
class _Stages:
    """Sizes in so many stages, from the first to the last: equal steps, or equal factors."""

    sizes: Mapping[str, tuple[int, int]]
    times: tuple[int, ...]
    factors: bool

    def __call__(self, step: int) -> dict[str, int]:
        return _some({name: abs(self._size(name, step) - self._size(name, step - 1)) for name in self.sizes})

    def _size(self, name: str, step: int) -> int:
        first, last = self.sizes[name]
        done = sum(time <= step for time in self.times) / len(self.times)
        return round(first * (last / first) ** done if self.factors else first + (last - first) * done)


def _own(setting: Setting, way: Neurons) -> Schedule:
    """That of GradMax's code for its methods; two rounds for Firefly; for criteria, one removal, then fine-tuning."""
    if way.grow == "Firefly":
        times = tuple(round(share * setting.steps) for share in (1 / 3, 2 / 3))
        return At(times, grow=_Stages(setting.sizes, times, factors=True))
    if way.grow is not None:
        count = max(2, min(12, setting.steps // 50))
        times = tuple(round(setting.steps * (EARLY + (LATE - EARLY) * k / (count - 1))) for k in range(count))
        return At(times, grow=_Stages(setting.sizes, times, factors=False))
    half = setting.steps // 2
    if way.prune == "polarization":
        return At([half], prune=sum(first - last for first, last in setting.sizes.values()))
    return At([half], prune=_Stages(setting.sizes, (half,), factors=False))


def _early(setting: Setting) -> tuple[Plasticity, Schedule]:
    """meristem's own: the recipe `early_growth`, and when it edits."""
    every = max(LISTEN, round(setting.steps / 50))
    factor = {name: last / first for name, (first, last) in setting.sizes.items()}
    settings = {"integrate": None, "listen": LISTEN, "seed": setting.seed, "axes": list(setting.sizes)}
    plasticity = early_growth(
        setting.model, setting.optimizer, setting.axes, factor=factor, steps=setting.steps, every=every, **settings
    )
    return plasticity, Every(every, end=round(0.3 * setting.steps), grow=1)


class _Polarizing(Controlled):
    """With the penalty on the scales of all batch normalizations, and the clamp after every step."""

    def __init__(self, setting: Setting, way: Neurons) -> None:
        super().__init__(*_controller(setting, way))
        self._polarized = Polarized(setting.model, way.strength)

    def penalty(self, model: nn.Module) -> Tensor:
        return self._polarized.penalty(model)

    def stepped(self, model: nn.Module) -> None:
        self._polarized.clamp(model)


class Polarized:
    """The polarization penalty on a net and its copies.

    Args:
        model: whose scales begin at 0.5.
        strength: of the penalty.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        self._penalty = Polarization(strength=strength)
        with torch.no_grad():
            for scale in _scales(model):
                scale.fill_(BEGIN)

    def penalty(self, model: nn.Module) -> Tensor:
        """Of a net."""
        return self._penalty.of(torch.cat(_scales(model)))

    @torch.no_grad()
    def clamp(self, model: nn.Module) -> None:
        """Puts its scales back into their box."""
        for scale in _scales(model):
            scale.clamp_(0, self._penalty.most)


def _scales(model: nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}
