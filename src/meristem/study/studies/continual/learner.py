"""A net, its optimizer and what is done to them, in the hands of the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import meristem
from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.integrate import L2Init
from meristem.plasticity import Plasticity
from meristem.train.experiment import Strict

L = TypeVar("L", bound="Learner")


@dataclass(frozen=True)
class Setting:
    """What a way of learning begins with.

    Attributes:
        model: freshly built, at the size that the way asked for.
        optimizer: Adam.
        example: some inputs.
        widths: by the name of each hidden axis its width when it is full.
        per_task: optimizer steps of a task.
        tasks: how many tasks there are.
        seed: of the run.
        monitor: watches newborns, where units are born.
    """

    model: nn.Module
    optimizer: Optimizer
    example: Tensor
    widths: dict[str, int]
    per_task: int
    tasks: int
    seed: int
    monitor: Monitor

    @property
    def boundaries(self) -> Sequence[int]:
        """The steps after which a new task begins."""
        return [self.per_task * k for k in range(1, self.tasks)]


@dataclass
class Learner:
    """An ordinary net: backpropagation and nothing else; subclasses add to it.

    Attributes:
        model, optimizer: what is trained.
        axes: today's map.
        plasticity: edits it, or None.
        births, deaths: since the last `changes`.
    """

    model: nn.Module
    optimizer: Optimizer
    axes: AxisMap
    plasticity: Plasticity | None = None
    births: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls: type[L], setting: Setting) -> L:
        """Without edits."""
        return cls(setting.model, setting.optimizer, meristem.trace(setting.model, setting.example))

    @classmethod
    def edited(cls: type[L], plasticity: Plasticity) -> L:
        """As a controller has it."""
        return cls(plasticity.model, plasticity.optimizers[0], plasticity.axes, plasticity)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What is minimized."""
        return cross_entropy(outputs, labels)

    def after(self, step: int, loss: Tensor) -> None:
        """What follows an optimizer step."""
        if self.plasticity is None:
            return
        event = self.plasticity.step(loss)
        self.axes = self.plasticity.axes
        if event is not None:
            self.births.update(event.births)
            self.deaths.update(event.deaths)

    def between(self) -> None:
        """What is done where a new task begins, after the edits."""

    def changes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Births and deaths since the last call, by axis."""
        found = dict(self.births), dict(self.deaths)
        self.births.clear()
        self.deaths.clear()
        return found

    def forget(self) -> None:
        """Empty the optimizer's state."""
        self.optimizer.state.clear()


class Anchored(Learner):
    """With L2-Init.

    Attributes:
        anchor: the term of the loss.
    """

    anchor: L2Init

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().loss(outputs, labels) + self.anchor(self.model)


class Way(Strict, ABC):
    """The settings of a way of learning."""

    @property
    def begins(self) -> float:
        """The share of the full width that the net is built with."""
        return 1.0

    @abstractmethod
    def begin(self, setting: Setting) -> Learner:
        """Starts it on a fresh net."""


def reset(model: nn.Module) -> None:
    """Draw all weights anew, each layer by its own `reset_parameters`."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()


@torch.no_grad()
def zeroed(layer: nn.Linear) -> None:
    """All weights and biases of a layer become zero."""
    for parameter in layer.parameters():
        parameter.zero_()
