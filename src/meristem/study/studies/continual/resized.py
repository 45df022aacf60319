"""Ways of learning whose nets change their size where a new task begins: growth, pruning, and both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

import meristem
from meristem.grow import Fresh, Method, Mitosis, Random
from meristem.integrate import StepCounts
from meristem.plasticity import Plasticity
from meristem.prune import Dormancy, Magnitude, Snapshot
from meristem.schedule import At, Below
from meristem.study.studies.continual.learner import Learner, Setting, Way

METHODS: dict[str, Callable[[], Method]] = {"random": Random, "fresh": Fresh, "mitosis": Mitosis}
"""How newborns begin, by name."""


class Growing(Way):
    """Units are really inserted where a new task begins, as many each time, up to the full width in the last task.

    Attributes:
        start: the share of units to begin with.
        method: how newborns begin.
        rewind: give incumbents their initial weights back each time, and empty the optimizer's state.
    """

    kind: Literal["grow"] = "grow"
    start: float = Field(default=0.2, gt=0, le=1)
    method: Literal["random", "fresh", "mitosis"] = "random"
    rewind: bool = False

    @property
    def begins(self) -> float:
        return self.start

    def begin(self, setting: Setting) -> Learner:
        axes = meristem.trace(setting.model, setting.example)
        start = {name: axes.by_name[name].size for name in setting.widths}
        amounts = even(setting, start, setting.widths)
        plasticity = Plasticity(
            setting.model,
            setting.optimizer,
            axes,
            schedule=At(setting.boundaries, grow=amounts),
            grow=METHODS[self.method](),
            integrate=StepCounts(),
            axes=list(setting.widths),
            monitor=setting.monitor,
            seed=setting.seed,
        )
        return rewinding(plasticity) if self.rewind else Learner.edited(plasticity)


class Pruned(Way):
    """Units with small weights are removed where a new task begins, as many each time, down to a share in the last.

    Attributes:
        share: of units that are left.
        rewind: give survivors their initial weights back each time, and empty the optimizer's state.
    """

    kind: Literal["prune"] = "prune"
    share: float = Field(default=0.5, gt=0, le=1)
    rewind: bool = True

    def begin(self, setting: Setting) -> Learner:
        end = {name: max(1, round(self.share * width)) for name, width in setting.widths.items()}
        plasticity = Plasticity(
            setting.model,
            setting.optimizer,
            setting.example,
            schedule=At(setting.boundaries, prune=even(setting, setting.widths, end)),
            prune=Magnitude(),
            axes=list(setting.widths),
            seed=setting.seed,
        )
        return rewinding(plasticity) if self.rewind else Learner.edited(plasticity)


class Elastic(Way):
    """Dead units are removed and random ones inserted where a new task begins.

    After Kong, Sutton, arXiv 2608.01475; of which only the abstract was at hand. Derived: a unit is dead if it gave
    zero on the last `listen` batches; births are a share of the full width.

    Attributes:
        start: the share of units to begin with.
        births: the share of the full width that is born each time.
        method: how newborns begin.
        prune: whether the dead are removed; False: growth alone.
        listen: batches.
    """

    kind: Literal["elastic"] = "elastic"
    start: float = Field(default=0.5, gt=0, le=1)
    births: float = Field(default=0.1, gt=0)
    method: Literal["random", "fresh", "mitosis"] = "random"
    prune: bool = True
    listen: int = Field(default=20, ge=1)

    @property
    def begins(self) -> float:
        return self.start

    def begin(self, setting: Setting) -> Learner:
        births = {name: max(1, round(self.births * width)) for name, width in setting.widths.items()}
        plasticity = Plasticity(
            setting.model,
            setting.optimizer,
            setting.example,
            schedule=At(setting.boundaries, grow=births, prune=Below(0) if self.prune else None),
            grow=METHODS[self.method](),
            prune=Dormancy() if self.prune else None,
            integrate=StepCounts(),
            axes=list(setting.widths),
            listen=min(self.listen, setting.per_task),
            monitor=setting.monitor,
            seed=setting.seed,
        )
        return Learner.edited(plasticity)


def rewinding(plasticity: Plasticity) -> Learner:
    """A learner whose old units begin every task where they began the first."""
    learner = _Rewinding.edited(plasticity)
    learner.start = Snapshot.of(plasticity.axes)
    return learner


def even(setting: Setting, first: dict[str, int], last: dict[str, int]) -> Callable[[int], dict[str, int]]:
    """By step, how many units each axis gains or loses, if sizes follow a straight line from task to task."""

    def size(name: str, task: int) -> int:
        return first[name] + round((last[name] - first[name]) * task / max(setting.tasks - 1, 1))

    def amounts(step: int) -> dict[str, int]:
        task = step // setting.per_task
        found = {name: abs(size(name, task) - size(name, task - 1)) for name in first}
        return {name: count for name, count in found.items() if count}

    return amounts


class _Rewinding(Learner):
    start: Snapshot

    def between(self) -> None:
        self.start.rewind(self.axes)
        self.forget()
