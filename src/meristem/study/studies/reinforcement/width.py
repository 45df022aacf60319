"""How the width of the net changes while it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from meristem.allocate import Limits, Proportional
from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.integrate import StepCounts
from meristem.plasticity import Plasticity
from meristem.prune import Taylor
from meristem.recipes import early_growth, redo
from meristem.schedule import At
from meristem.train.build import GROWTH
from meristem.train.experiment import Strict


@dataclass(frozen=True, slots=True)
class Setting:
    """What a change has to do with.

    Attributes:
        axes: the map of the net.
        optimizer: its own.
        target: the copy of the net that gives the targets, which follows every edit.
        updates: optimizer steps of the whole run.
        listen: steps over which statistics are added up.
        seed: of everything random.
        monitor: watches newborns.
    """

    axes: AxisMap
    optimizer: Optimizer
    target: nn.Module
    updates: int
    listen: int
    seed: int
    monitor: Monitor

    @property
    def common(self) -> dict[str, Any]:
        """What all controllers are given."""
        return {
            "follow": [self.target],
            "listen": self.listen,
            "seed": self.seed,
            "integrate": StepCounts(),
            "monitor": self.monitor,
        }


class Change(Strict, ABC):
    """A way in which the width changes, or the units."""

    @abstractmethod
    def begin(self, setting: Setting) -> Plasticity:
        """What carries it out."""

    @abstractmethod
    def due(self, updates: int) -> list[int]:
        """After which optimizer steps of so many something may be edited."""


class Grown(Change):
    """Growth to another width, with sizes that follow the square root of time (`meristem.recipes.early_growth`).

    Attributes:
        to: units of every hidden layer in the end.
        method: of `meristem.grow`, with its `options`.
        by: the share of the run in which the net grows.
        edits: how often.
    """

    kind: Literal["grown"] = "grown"
    to: int = Field(default=128, ge=2)
    method: str = "Mitosis"
    options: dict[str, Any] = Field(default={})
    by: float = Field(default=0.5, gt=0, le=1)
    edits: int = Field(default=20, ge=1)

    def begin(self, setting: Setting) -> Plasticity:
        axes = setting.axes
        return early_growth(
            axes.model,
            setting.optimizer,
            axes,
            factor={axis.name: self.to / axis.size for axis in axes.editable},
            steps=setting.updates,
            share=self.by,
            every=self._every(setting.updates),
            grow=GROWTH[self.method](**self.options),
            axes=[axis.name for axis in axes.editable],
            **setting.common,
        )

    def due(self, updates: int) -> list[int]:
        every = self._every(updates)
        return list(range(every, int(self.by * updates) + 1, every))

    def _every(self, updates: int) -> int:
        return max(1, int(self.by * updates) // self.edits)


class Pruned(Change):
    """Pruning to another width by Taylor's criterion, in equal steps.

    Attributes:
        to: units of every hidden layer in the end.
        first, last: when, in shares of the run.
        edits: how often.
    """

    kind: Literal["pruned"] = "pruned"
    to: int = Field(default=16, ge=2)
    first: float = Field(default=0.3, ge=0, le=1)
    last: float = Field(default=0.8, ge=0, le=1)
    edits: int = Field(default=10, ge=1)

    def begin(self, setting: Setting) -> Plasticity:
        due, start = self.due(setting.updates), {axis.name: axis.size for axis in setting.axes.editable}

        def amount(step: int) -> dict[str, int]:
            return {name: self._size(size, due, step - 1) - self._size(size, due, step) for name, size in start.items()}

        return Plasticity(
            setting.axes.model,
            setting.optimizer,
            setting.axes,
            schedule=At(due, prune=amount),
            prune=Taylor(),
            allocate=Proportional(limits=Limits(minimum=self.to)),
            **setting.common,
        )

    def due(self, updates: int) -> list[int]:
        gap = (self.last - self.first) / max(self.edits - 1, 1)
        return [max(1, round(updates * (self.first + gap * edit))) for edit in range(self.edits)]

    def _size(self, start: int, due: list[int], step: int) -> int:
        return start + round((self.to - start) * sum(at <= step for at in due) / len(due))


class Renewed(Change):
    """ReDo, see `meristem.recipes.redo`: dormant units begin anew, the width stays.

    Attributes:
        tau: units whose mean activation is at most this share of their layer's mean are dormant.
        edits: how often they are looked for, equally far apart.
    """

    kind: Literal["renewed"] = "renewed"
    tau: float = Field(default=0.1, ge=0)
    edits: int = Field(default=10, ge=1)

    def begin(self, setting: Setting) -> Plasticity:
        every = self._every(setting.updates)
        model, axes = setting.axes.model, setting.axes
        return redo(model, setting.optimizer, axes, tau=self.tau, every=every, **setting.common)

    def due(self, updates: int) -> list[int]:
        return list(range(self._every(updates), updates + 1, self._every(updates)))

    def _every(self, updates: int) -> int:
        return max(1, updates // self.edits)


AnyChange: TypeAlias = Annotated[Grown | Pruned | Renewed, Field(discriminator="kind")]
