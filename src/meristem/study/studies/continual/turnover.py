"""Ways of learning with turnover: units leave and others come all along, whatever the tasks are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from meristem.allocate import Limits, Proportional
from meristem.integrate import L2Init, StepCounts
from meristem.plasticity import Plasticity
from meristem.prune import Dormancy, Protect
from meristem.recipes import continual_backprop, redo
from meristem.schedule import Below, Every
from meristem.study.studies.continual.learner import Anchored, Learner, Setting, Way
from meristem.study.studies.continual.resized import METHODS


class ContinualBackprop(Way):
    """Attributes: see `meristem.recipes.continual_backprop`."""

    kind: Literal["cbp"] = "cbp"
    rate: float = Field(default=1e-3, gt=0)
    maturity: int = Field(default=100, ge=1)
    every: int = Field(default=20, ge=1)

    def begin(self, setting: Setting) -> Learner:
        plasticity = continual_backprop(
            setting.model,
            setting.optimizer,
            setting.example,
            rate=self.rate,
            maturity=self.maturity,
            every=self.every,
            monitor=setting.monitor,
            seed=setting.seed,
        )
        return Learner.edited(plasticity)


class Recycled(Way):
    """ReDo. Attributes: see `meristem.recipes.redo`; activity is that of the last `listen` steps."""

    kind: Literal["redo"] = "redo"
    tau: float = Field(default=0.1, ge=0)
    every: int = Field(default=100, ge=1)
    listen: int = Field(default=10, ge=1)

    def begin(self, setting: Setting) -> Learner:
        plasticity = redo(
            setting.model,
            setting.optimizer,
            setting.example,
            tau=self.tau,
            every=self.every,
            listen=self.listen,
            monitor=setting.monitor,
            seed=setting.seed,
        )
        return Learner.edited(plasticity)


class Renewed(Way):
    """Ours: every so often dormant units leave and fresh ones come, up to the full width, under the pull of L2-Init.

    Needs to know nothing of tasks. Turnover revives units, and the pull keeps the others from going dormant; a newborn
    is pulled to where it was born.

    Attributes:
        start: the share of units to begin with.
        births: the share of the full width that may be born each time.
        method: how newborns begin.
        tau: units whose mean activation is at most this share of their layer's mean leave.
        every: optimizer steps from one time to the next.
        listen: optimizer steps over which activity is added up.
        strength: of L2-Init; 0: without.
    """

    kind: Literal["ours"] = "ours"
    start: float = Field(default=1.0, gt=0, le=1)
    births: float = Field(default=1.0, gt=0)
    method: Literal["random", "fresh", "mitosis"] = "fresh"
    tau: float = Field(default=0.1, ge=0)
    every: int = Field(default=100, ge=1)
    listen: int = Field(default=10, ge=1)
    strength: float = Field(default=1e-3, ge=0)

    @property
    def begins(self) -> float:
        return self.start

    def begin(self, setting: Setting) -> Learner:
        births = {name: max(1, round(self.births * width)) for name, width in setting.widths.items()}
        anchor = L2Init(setting.model, self.strength)
        plasticity = Plasticity(
            setting.model,
            setting.optimizer,
            setting.example,
            schedule=Every(self.every, prune=Below(self.tau), grow=births),
            grow=METHODS[self.method](),
            prune=Protect(Dormancy(), age=self.every),
            allocate=Proportional(limits={name: Limits(maximum=width) for name, width in setting.widths.items()}),
            integrate=StepCounts(),
            follow=[anchor.start],
            axes=list(setting.widths),
            listen=self.listen,
            monitor=setting.monitor,
            seed=setting.seed,
        )
        learner = Anchored.edited(plasticity)
        learner.anchor = anchor
        return learner
