"""What an edit does to the loss: at once, and after some steps, compared with a twin that was not edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from meristem.edit.duplicate import duplicate
from meristem.study.studies.grid.contender import Contender


@dataclass(frozen=True, eq=False)
class Probe:
    """Training images on which the loss is looked at, without a trace in the net.

    Attributes:
        x: standardized images.
        y: labels.
    """

    x: Tensor
    y: Tensor

    def first(self, count: int) -> Probe:
        """The first of them."""
        return Probe(self.x[:count], self.y[:count])

    @torch.no_grad()
    def training_loss(self, model: nn.Module) -> float:
        """In train mode, with the statistics of these images; running statistics stay as they are."""
        with _buffers_kept(model):
            return cross_entropy(model(self.x), self.y).item()

    @torch.no_grad()
    def evaluation_loss(self, model: nn.Module) -> float:
        """In eval mode, with running statistics. Leaves the net in train mode."""
        model.eval()
        found = cross_entropy(model(self.x), self.y).item()
        model.train()
        return found


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, value in kept:
        buffer.copy_(value)


@dataclass(eq=False)
class Twin:
    """A copy of a net and its optimizer that goes on as if nothing had happened.

    Attributes:
        model, optimizer: the copies.
        ends: the step after which both are compared.
    """

    model: nn.Module
    optimizer: Optimizer
    ends: int

    @classmethod
    def of(cls, contender: Contender, model: nn.Module, optimizer: Optimizer, ends: int) -> Twin:
        """Of a net as it is now. Hooks stay behind."""
        copy = duplicate(model, model)
        follower = torch.optim.SGD([{**_plain(optimizer.param_groups[0]), "params": list(copy.parameters())}])
        for old, new in zip(model.parameters(), copy.parameters(), strict=True):
            state = optimizer.state.get(old, {})
            follower.state[new] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
        contender.copied(copy, follower)
        return cls(copy, follower, ends)

    def step(self, contender: Contender, x: Tensor, y: Tensor, rate: float) -> None:
        """One step on the batch that the net learns from, with the same learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        (cross_entropy(self.model(x), y) + contender.penalty(self.model)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        contender.stepped(self.model)


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "initial_lr")}


@dataclass(eq=False)
class Watch:
    """Looks at the loss around edits.

    Attributes:
        contender: who edits.
        optimizer: of the net.
        probe: for lasting damage.
        times: from every other of these steps on the next edit gets a twin.
        horizon: for how many steps a twin lives.
        jumps, evaluation_jumps: the change of the loss by every edit, in train and in eval mode.
        damages: what the loss was above that of the twin at its end, for every twin.
    """

    contender: Contender
    optimizer: Optimizer
    probe: Probe
    times: tuple[int, ...]
    horizon: int
    jumps: list[float] = field(default_factory=list)
    evaluation_jumps: list[float] = field(default_factory=list)
    damages: list[float] = field(default_factory=list)
    _twin: Twin | None = None
    _used: int = 0

    def around(self, step: int, edit: Callable[[], bool]) -> None:
        """Looks before and after what may be an edit; `edit` tells whether it was one."""
        model, few = self.contender.axes.model, self.probe.first(128)
        passed = sum(time <= step for time in self.times[::2])
        twin = None
        if self._twin is None and passed > self._used:
            twin = Twin.of(self.contender, model, self.optimizer, step + self.horizon)
        before = few.training_loss(model), few.evaluation_loss(model)
        if not edit():
            return
        model = self.contender.axes.model
        self.jumps.append(few.training_loss(model) - before[0])
        self.evaluation_jumps.append(few.evaluation_loss(model) - before[1])
        if twin is not None:
            self._twin, self._used = twin, passed

    def stepped(self, step: int, x: Tensor, y: Tensor, rate: float) -> None:
        """Called before anything is edited after a step: the twin learns from the same batch."""
        if self._twin is None:
            return
        self._twin.step(self.contender, x, y, rate)
        if step >= self._twin.ends:
            edited, twin = (self.probe.training_loss(m) for m in (self.contender.axes.model, self._twin.model))
            self.damages.append(edited - twin)
            self._twin = None
