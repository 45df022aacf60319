"""What an integrator is: something that helps newborns, at birth, at every step, or after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.axes.map import Axis, AxisMap
from meristem.edit import StatePolicy
from meristem.integrate.last_batch import LastBatch
from meristem.integrate.young import YoungEntries

Group = Mapping[str, Any]
"""One of an optimizer's `param_groups`."""


@dataclass(frozen=True, eq=False)
class Update:
    """One update of one parameter that newborns have a part in, as an integrator sees it right afterwards.

    Newborns of one step form a cohort. An entry belongs to the youngest of the units that it belongs to.

    Attributes:
        optimizer: the optimizer that made it.
        group: its group of the parameter.
        parameter: the parameter; what it holds is the new value.
        updates: how many updates the parameter has had since the birth of each cohort, this one included, so at least
            1: float64, shape (cohorts,), the oldest cohort first. Steps that a gradient scaler skipped and steps
            without a gradient do not count.
        entries: which entries belong to which cohort.
    """

    optimizer: Optimizer
    group: Group
    parameter: Tensor
    updates: Tensor
    entries: YoungEntries

    @property
    def state(self) -> Mapping[str, Any]:
        """What the optimizer remembers of the parameter."""
        return self.optimizer.state.get(self.parameter, {})


@dataclass(frozen=True, eq=False)
class Cohorts:
    """The units of a model by birth, right after an edit or when training goes on.

    Attributes:
        axes: today's map.
        births: by axis name, the step at which an edit inserted each unit: int64, shape (axis.size,), -1 for none. Axes
            without newborns are left out.
        fresh: likewise, which of them started from nothing, not as copies; bool.
        new: likewise, which of them the edit just now inserted; bool.
        updates: for every birth how often the optimizer has made a step since.
        resumed: whether training goes on after an interruption: then what the model holds may be loaded later.
        batch: what the model was trained on last, for integrators that ask for it with `measures`; else None.
    """

    axes: AxisMap
    births: Mapping[str, Tensor]
    fresh: Mapping[str, Tensor]
    new: Mapping[str, Tensor]
    updates: Mapping[int, int]
    resumed: bool = False
    batch: LastBatch | None = None

    def young(self, axis: Axis, window: float) -> Tensor:
        """The births of those units of an axis that started from nothing less than `window` steps ago, -1 for all
        others; int64, shape (axis.size,)."""
        births = self.births.get(axis.name)
        if births is None:
            return torch.full((axis.size,), -1)
        recent = [birth for birth, updates in self.updates.items() if updates < window]
        return torch.where(torch.isin(births, torch.tensor(recent)) & self.fresh[axis.name], births, -1)


class Upkeep(Protocol):
    """What is done after every optimizer step for the newborns of one map."""

    def after(self, updates: Mapping[int, int]) -> bool:
        """Do it; `updates` as in `Cohorts`, this step included. Returns whether there will be more to do."""
        ...

    def memory(self) -> Any:
        """What cannot be derived from births and the model, JSON-able. The keys of a dict that are names of modules,
        parameters or buffers follow edits of the module tree."""
        ...


class Integrator:
    """What helps newborns until they do their part. Frozen dataclasses of settings derive from it.

    Every method is optional; the defaults do nothing. Integrators are combined by listing them: factors multiply,
    upkeep is done in the order of the list, and at most one of them says what optimizer state starts from.
    """

    spares_decay: ClassVar[bool] = False
    """Whether the factor leaves out decoupled weight decay: corrections of moments do, learning rates do not."""

    measures: ClassVar[bool] = False
    """Whether `upkeep` needs the batch that the model was trained on last."""

    @property
    def state(self) -> StatePolicy | None:
        """What the optimizer state of newborns starts from, if the integrator says that."""
        return None

    def refused(self, optimizer: Optimizer, group: Group) -> str | None:
        """Why it cannot help what this optimizer trains, or None if it can."""
        return None

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why it cannot help newborns of this axis, or None if it can."""
        return None

    def window(self, optimizer: Optimizer, group: Group) -> float:
        """For how many updates after its birth `factor` may be other than 1."""
        return 0

    def factor(self, update: Update) -> Tensor:
        """By what this update of each cohort's entries is multiplied; shape (cohorts,), any device."""
        return torch.ones(())

    def upkeep(self, cohorts: Cohorts, memory: Any) -> Upkeep | None:
        """What is to be done from now on after every optimizer step; None for nothing.

        Args:
            cohorts: the units by birth.
            memory: what `Upkeep.memory` gave before the edit or the interruption; None at first.
        """
        return None
