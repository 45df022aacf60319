"""What a schedule is: at a step, a tuple of demands; and how schedules combine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.edit.succession import Succession
from meristem.errors import ConfigError
from meristem.schedule.budget import Bound, Bounds, Budget
from meristem.schedule.demand import Action, Demand
from meristem.signals import Statistic, View

State: TypeAlias = "dict[str, Any]"
"""What a schedule remembers between steps: JSON-able, but for numbers that may be 0-dimensional tensors. Its keys never
change; a list that is empty at first may be filled."""


class Moment(NamedTuple):
    """What a schedule may look at.

    Attributes:
        step: number of optimizer steps taken.
        loss: the last one's loss if it was given.
        view: the model with what the schedule `needs`, at the steps that it `looks` at; else it may be None.
        chosen: the axes that may be edited, as they are in the view.
    """

    step: int
    loss: Tensor | float | None
    view: View | None = None
    chosen: Sequence[Axis] = ()


class Schedule(ABC):
    """Says when to edit and how much. Schedules are frozen dataclasses; what they remember lives in their state."""

    @property
    @abstractmethod
    def actions(self) -> frozenset[Action]:
        """What this schedule may ever ask for."""

    @abstractmethod
    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        """What to do after this step, in order, and the state to remember.

        Called once after every optimizer step, but for those that `next` passes over.
        """

    def next(self, step: int) -> float:
        """The next step after this one at which `due` must be called; `inf` for never. Default: every step."""
        return step + 1

    def announced(self, step: int) -> float:
        """The next step after this one at which an edit is known in advance to come; `inf` (default) if none is."""
        return inf

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        """What is known in advance to be asked for after that step, which is `announced`."""
        return ()

    def looks(self, step: int) -> float:
        """The next step after this one at which `due` reads `moment.view.signals`; `inf` (default) for never."""
        return inf

    def needs(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Statistic, ...]:
        """What must have been recorded when the schedule `looks` (default: nothing).

        Args:
            axes: today's map.
            chosen: the axes that may be edited.
        """
        return ()

    def initial(self) -> State:
        """The state before the first step."""
        return {}

    def moved(self, state: State, succession: Succession) -> State:
        """The state after an edit of the module tree, which gives axes other names. Default: the same."""
        return state

    def after(self, *, steps: int) -> After:
        """This schedule, beginning when so many optimizer steps have been taken."""
        return After(self, steps)

    def until(
        self,
        *,
        parameters: Bound = None,
        flops: Bound = None,
        units: Bound = None,
        bytes: Bound = None,
        steps: int | None = None,
    ) -> Until:
        """This schedule, ending at a size (see `Budget`), or with the edit after that optimizer step.

        A bound may be a callable that gives it for an optimizer step: then every edit keeps to the bound of its step.
        """
        return Until(self, Bounds(parameters, flops, units, bytes).budget, steps)

    def __or__(self, other: Schedule) -> Together:
        return Together((self, other))


@dataclass(frozen=True)
class Together(Schedule):
    """Several schedules at once, written `a | b`; what falls on the same step is done in the order written."""

    schedules: tuple[Schedule, ...]

    @property
    def actions(self) -> frozenset[Action]:
        return frozenset().union(*(schedule.actions for schedule in self.schedules))

    def next(self, step: int) -> float:
        return min(schedule.next(step) for schedule in self.schedules)

    def announced(self, step: int) -> float:
        return min(schedule.announced(step) for schedule in self.schedules)

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        return tuple(demand for schedule in self.schedules for demand in schedule.foreseen(step))

    def looks(self, step: int) -> float:
        return min(schedule.looks(step) for schedule in self.schedules)

    def needs(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys(needed for s in self.schedules for needed in s.needs(axes, chosen)))

    def initial(self) -> State:
        return {"parts": [schedule.initial() for schedule in self.schedules]}

    def moved(self, state: State, succession: Succession) -> State:
        pairs = zip(self.schedules, state["parts"], strict=True)
        return {"parts": [schedule.moved(part, succession) for schedule, part in pairs]}

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        answers = [schedule.due(moment, part) for schedule, part in zip(self.schedules, state["parts"], strict=True)]
        demands = tuple(demand for found, _ in answers for demand in found)
        return demands, {"parts": [part for _, part in answers]}


@dataclass(frozen=True)
class _Part(Schedule):
    """Another schedule during a part of the training: between two steps, both included."""

    schedule: Schedule

    @property
    def _first(self) -> float:
        return -inf

    @property
    def _last(self) -> float:
        return inf

    @property
    def actions(self) -> frozenset[Action]:
        return self.schedule.actions

    def next(self, step: int) -> float:
        return self._within(self.schedule.next, step)

    def announced(self, step: int) -> float:
        return self._within(self.schedule.announced, step)

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        return self.schedule.foreseen(step) if self._first <= step <= self._last else ()

    def looks(self, step: int) -> float:
        return self._within(self.schedule.looks, step)

    def needs(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Statistic, ...]:
        return self.schedule.needs(axes, chosen)

    def initial(self) -> State:
        return self.schedule.initial()

    def moved(self, state: State, succession: Succession) -> State:
        return self.schedule.moved(state, succession)

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        return self.schedule.due(moment, state) if self._first <= moment.step <= self._last else ((), state)

    def _within(self, following: Callable[[int], float], step: int) -> float:
        found = following(int(max(step, self._first - 1)))
        return found if found <= self._last else inf


@dataclass(frozen=True)
class After(_Part):
    """Another schedule after a warm-up; written `schedule.after(steps=...)`.

    What happens before is hidden from it: a plateau is looked for in the losses after the warm-up only. Times are
    still counted from the beginning of the training.

    Attributes:
        schedule: the other schedule.
        steps: the first optimizer step after which it may be due.
    """

    steps: int

    def __post_init__(self) -> None:
        if not self.steps >= 0:
            raise ConfigError(f"after(steps=...) needs a number of steps >= 0, got {self.steps!r}")

    @property
    def _first(self) -> float:
        return self.steps


@dataclass(frozen=True)
class Until(_Part):
    """Another schedule, ending at a size or a step; written `schedule.until(parameters=..., steps=...)`.

    The last growth takes as many units as fit into the budget; the last pruning takes as few as meet it. Where the
    other schedule has a budget too, both hold.

    Attributes:
        schedule: the other schedule.
        budget: the size at which to end, or a callable that gives it for an optimizer step.
        steps: the last optimizer step (included) after which it may be due, or None.
    """

    budget: Budget | Callable[[int], Budget] = field(default_factory=Budget)
    steps: int | None = None

    def __post_init__(self) -> None:
        if not self.budget and self.steps is None:
            raise ConfigError("until(...) needs a budget (parameters=, flops=, units= or bytes=) or steps=")
        if self.steps is not None and not self.steps >= 1:
            raise ConfigError(f"until(steps=...) needs a number of steps >= 1, got {self.steps!r}")

    @property
    def _last(self) -> float:
        return inf if self.steps is None else self.steps

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        demands, state = super().due(moment, state)
        return self._bounded(demands, moment.step), state

    def foreseen(self, step: int) -> tuple[Demand, ...]:
        return self._bounded(super().foreseen(step), step)

    def _bounded(self, demands: Sequence[Demand], step: int) -> tuple[Demand, ...]:
        if not demands:
            return ()
        own = self.budget(step) if callable(self.budget) else self.budget
        return tuple(replace(demand, budget=_joint(own, demand.budget)) for demand in demands)


def _joint(own: Budget, other: Budget | None) -> Budget | None:
    joint = own if other is None else own & other
    return joint if joint else None
