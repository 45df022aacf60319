"""What a schedule is: at a step, a tuple of demands; and how schedules combine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.errors import ConfigError

Action: TypeAlias = Literal["grow", "prune"]

Amount: TypeAlias = "int | float | Callable[[int], int | float]"
"""How many units in all: an int counts units, a float is a fraction of all units of the chosen axes, a callable gives
one of both for an optimizer step."""

State: TypeAlias = "dict[str, Any]"
"""What a schedule remembers between steps: JSON-able, but for numbers that may be 0-dimensional tensors."""


@dataclass(frozen=True)
class Budget:
    """Bounds on the model's size. Growth stops before it exceeds one; pruning stops as soon as it meets all.

    Attributes:
        parameters: number of parameters, tied ones once, or None.
        flops: floating-point operations of one forward pass on the example input (as `AxisMap.flops`), or None.
    """

    parameters: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        for name, bound in (("parameters", self.parameters), ("flops", self.flops)):
            if bound is not None and not bound > 0:
                raise ConfigError(f"a budget of {name} must be a positive number, got {bound!r}")

    def met(self, axes: AxisMap, sizes: Sequence[int]) -> bool:
        """Whether the model is within every bound when its axes have these sizes."""
        return (self.parameters is None or axes.parameter_count(sizes) <= self.parameters) and (
            self.flops is None or axes.flops(sizes) <= self.flops
        )


@dataclass(frozen=True)
class Demand:
    """What a schedule asks for at one step.

    Attributes:
        action: "grow" or "prune".
        amount: units in all (int), or a fraction of the units of the chosen axes (float).
        budget: where to stop, or None.
    """

    action: Action
    amount: int | float
    budget: Budget | None = None


class Moment(NamedTuple):
    """What a schedule may look at: the number of optimizer steps taken, and the last one's loss if it was given."""

    step: int
    loss: Tensor | float | None


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

    def initial(self) -> State:
        """The state before the first step."""
        return {}

    def until(self, *, parameters: float | None = None, flops: float | None = None) -> Until:
        """This schedule, ending at a number of parameters or of FLOPs."""
        return Until(self, parameters=parameters, flops=flops)

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

    def initial(self) -> State:
        return {"parts": [schedule.initial() for schedule in self.schedules]}

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        answers = [schedule.due(moment, part) for schedule, part in zip(self.schedules, state["parts"], strict=True)]
        demands = tuple(demand for found, _ in answers for demand in found)
        return demands, {"parts": [part for _, part in answers]}


@dataclass(frozen=True)
class Until(Schedule):
    """Another schedule, ending at a budget; written `schedule.until(parameters=..., flops=...)`.

    The last growth takes as many units as fit into the budget; the last pruning takes as few as meet it.
    """

    schedule: Schedule
    parameters: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        if self.parameters is None and self.flops is None:
            raise ConfigError("until(...) needs a budget: parameters=, flops= or both")
        Budget(self.parameters, self.flops)

    @property
    def actions(self) -> frozenset[Action]:
        return self.schedule.actions

    def next(self, step: int) -> float:
        return self.schedule.next(step)

    def initial(self) -> State:
        return self.schedule.initial()

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        demands, state = self.schedule.due(moment, state)
        if not demands:
            return demands, state
        budget = Budget(self.parameters, self.flops)
        return tuple(Demand(d.action, d.amount, budget) for d in demands), state
