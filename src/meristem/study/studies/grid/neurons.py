"""Contests at the level of neurons: channels of convolutions are born and die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from meristem.allocate import Allocator, Limits, Proportional, Ranked, Separately
from meristem.axes import AxisMap
from meristem.plasticity import Plasticity
from meristem.prune import BatchNormScale, Criterion, Magnitude, Polarization
from meristem.recipes import early_growth
from meristem.schedule import Every, Schedule
from meristem.study.studies.grid.contender import LISTEN, Contender, Controlled, Setting, Still, Timing
from meristem.study.studies.grid.insertion import Growing, Insertion, helpers, method
from meristem.study.studies.grid.schedules import Pruning, fixed, own
from meristem.train.experiment import Strict

BEGIN = 0.5
"""Where scales of batch normalizations begin under polarization, as in the paper."""


class Neurons(Strict):
    """Units are born, die, or both, by a method, a criterion and a schedule.

    Attributes:
        grow: who is born. GradMax, GradMax-Opt, Firefly, random (GradMax's baseline), Mitosis; None: nobody.
        prune: who dies: filters with the smallest L1 norm, or under the polarization penalty those with the smallest
            scales; None: nobody.
        insertion: see `insertion.method`.
        schedule: `fixed`: that of the protocol. `own`: those that belong to the method and the criterion, side by side.
        strength: of the polarization penalty.
    """

    kind: Literal["neurons"] = "neurons"
    grow: Growing | None = None
    prune: Pruning | None = None
    insertion: Insertion = "published"
    schedule: Timing = "fixed"
    strength: float = Field(default=3e-5, ge=0)

    @model_validator(mode="after")
    def _alone(self) -> Neurons:
        if self.schedule == "own" and self.grow == "Mitosis" and self.prune is not None:
            raise ValueError("the schedule of Mitosis is that of a whole recipe, which prunes nothing: leave prune out")
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

    schedule = _schedule(setting, way, today)
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
            monitor=setting.monitor,
            seed=setting.seed,
        )
    )
    return made[0], schedule


def _schedule(setting: Setting, way: Neurons, today: Callable[[], AxisMap]) -> Schedule:
    if way.schedule == "own":
        return own(setting, way.grow, way.prune, today)
    return fixed(setting, way.grow is not None, way.prune is not None, today)


def _criterion(way: Neurons) -> Criterion | None:
    return {None: None, "L1": Magnitude(p=1), "polarization": BatchNormScale()}[way.prune]


def _allocator(way: Neurons) -> Allocator:
    """Polarization's own: one ranking of all scales, as in the paper; else every layer keeps its share."""
    if way.schedule == "fixed" or way.prune != "polarization":
        return Proportional()
    ranked = Ranked(limits=Limits(minimum=1))
    return ranked if way.grow is None else Separately(grow=Proportional(), prune=ranked)


def _early(setting: Setting) -> tuple[Plasticity, Schedule]:
    """meristem's own: the recipe `early_growth`, and when it edits."""
    every = max(LISTEN, round(setting.steps / 50))
    factor = {name: last / first for name, (first, last) in setting.sizes.items()}
    given = {"integrate": None, "listen": LISTEN, "seed": setting.seed, "axes": list(setting.sizes)}
    plasticity = early_growth(
        setting.model,
        setting.optimizer,
        setting.axes,
        factor=factor,
        steps=setting.steps,
        every=every,
        monitor=setting.monitor,
        **given,
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
