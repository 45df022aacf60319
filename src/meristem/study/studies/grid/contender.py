"""What takes part in the benchmark: something that changes the structure of a net while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.plasticity import Plasticity
from meristem.schedule import Schedule

Level: TypeAlias = Literal["neuron", "layer", "cell", "normalized cell", "weight"]
"""What is edited; branches of normalized cells have batch normalizations of their own, those of cells share one."""

Course: TypeAlias = Literal["growing", "shrinking", "constant"]
Timing: TypeAlias = Literal["fixed", "own"]
"""Whose schedule a way follows: that of the protocol, or those that belong to its methods, each for its own edits."""

Closure: TypeAlias = Callable[[], Tensor]
Change: TypeAlias = tuple[Mapping[str, int], Mapping[str, int]]
"""Births and deaths by name, of one edit."""

TURNOVER = 0.125
"""Where structure both dies and is born, such a share of what is there in the end does at least, at each time."""

LISTEN = 4
"""Over so many steps before an edit statistics are added up; where units die as well, newborns come so much later."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method is given.

    Attributes:
        model: the net, on its device.
        axes: its map.
        optimizer: SGD over all its parameters.
        example: some training images, standardized.
        level, course: of the contest.
        norm: whether the net has batch normalizations.
        sizes: by axis name, the units with which a contest at the level of neurons begins, and ends.
        steps: optimizer steps of the whole training.
        times: the steps after which the fixed schedule edits.
        tries: how often methods that train newborns before birth may evaluate the loss for each axis and edit.
        seed: of everything random.
        monitor: watches newborns, where controllers edit units.
    """

    model: nn.Module
    axes: AxisMap
    optimizer: Optimizer
    example: Tensor
    level: Level
    course: Course
    norm: bool
    sizes: Mapping[str, tuple[int, int]]
    steps: int
    times: tuple[int, ...]
    tries: int
    seed: int
    monitor: Monitor | None = None

    def reached(self, first: float, last: float, edits: int) -> float:
        """How far a number has gone from its first to its last value after so many edits of the fixed schedule."""
        return first + (last - first) * edits / len(self.times)


def norms(level: str) -> tuple[bool, ...]:
    """With and without batch normalization; at the level that is about it only with it."""
    return (True,) if level == "normalized cell" else (False, True)


class Contender(ABC):
    """A method at work on one net.

    Attributes:
        in_step: whether it edits within the step of the optimizer, by hooks; else in `after`.
        computes: whether it runs the net when it edits, so that operations are counted. Edits of layers only rehearse
            on tensors without contents; where they are counted because units of layers are made from passes, those of
            the rehearsals, some percent of these, are counted as well.
    """

    in_step: ClassVar[bool] = False
    computes: bool = True

    @property
    @abstractmethod
    def axes(self) -> AxisMap:
        """Today's map of the net."""

    @abstractmethod
    def edits(self, step: int) -> bool:
        """Whether it may change the net after this step; told before it does."""

    @abstractmethod
    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        """Called after every step of the optimizer, with zero gradients; changes the net, or tells how it has changed.

        Args:
            step: how many steps have been taken.
            loss: of this step.
            closure: computes the loss of a batch that is drawn at random, without a backward pass.

        Returns:
            what was born and what died; None if nothing changed.
        """

    def penalty(self, model: nn.Module) -> Tensor:
        """What is added to the loss, of the net or of a copy of it. Default: nothing."""
        return torch.zeros(())

    def stepped(self, model: nn.Module) -> None:
        """Called after every step of the optimizer of the net, or of a copy of it. Default: nothing."""
        return

    def copied(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Told of a copy of the net that goes on without edits. Default: nothing."""
        return

    def weights(self) -> int:
        """How many parameters are there. Default: all."""
        return self.axes.parameter_count()


class Controlled(Contender):
    """Any method that a controller carries out.

    Args:
        plasticity: the controller.
        schedule: that which it follows.
    """

    def __init__(self, plasticity: Plasticity, schedule: Schedule) -> None:
        self._plasticity, self._schedule = plasticity, schedule

    @property
    def axes(self) -> AxisMap:
        return self._plasticity.axes

    def edits(self, step: int) -> bool:
        """What was not announced may come some steps after it is asked for, if it needs statistics."""
        asked = [s for s in range(max(1, step - LISTEN), step + 1) if self._schedule.next(s - 1) <= s]
        return any(s == step or self._schedule.announced(s - 1) != s for s in asked)

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        event = self._plasticity.step(loss, closure)
        if event is None:
            return None
        born, died = (dict.fromkeys(paths, 1) for paths in (event.inserted, event.removed))
        return {**event.births, **born}, {**event.deaths, **died}


class Still(Contender):
    """A net that nothing changes.

    Args:
        axes: its map.
    """

    def __init__(self, axes: AxisMap) -> None:
        self._axes = axes

    @property
    def axes(self) -> AxisMap:
        return self._axes

    def edits(self, step: int) -> bool:
        return False

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        return None
