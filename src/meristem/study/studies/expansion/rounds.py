"""Rounds of training with early stopping, and growth between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from meristem.allocate import SVoD, Uniform
from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.grow import Method
from meristem.plasticity import Event, Plasticity
from meristem.schedule import Action, Demand, Fixed, Moment, Schedule
from meristem.schedule.schedule import State
from meristem.signals import View
from meristem.study.studies.expansion.nets import GROWING, Part, Parts
from meristem.train.experiment import Strict
from meristem.train.log import Log


class Rounds(Strict):
    """How training goes.

    Attributes:
        epochs: of a round, at most.
        patience: epochs without a lower validation loss, after which a round is over; `last` in the last round.
        batch_size, learning_rate, weight_decay: of Adam, which begins anew in every round.
        listen: batches over which statistics are added up, for methods that need some.
    """

    epochs: int = 250
    patience: int = 20
    last: int = 30
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    listen: int = 4


@dataclass(frozen=True)
class OnCall(Schedule):
    """Growth when the loop asks for it, which alone knows when a round is over.

    Attributes:
        asked: amounts, carried out and taken off at the next step.
    """

    asked: list[Fixed] = field(default_factory=list)

    @property
    def actions(self) -> frozenset[Action]:
        return frozenset({"grow"})

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        demands = tuple(Demand("grow", amount) for amount in self.asked)
        self.asked.clear()
        return demands, state


class Course:
    """A net in training, round by round.

    Args:
        model: the net.
        axes: its map.
        parts: the data.
        settings: of the rounds.
        method: makes newborns; None for a fixed net.
        log: is told what happens.
        seed: of the order of the data and of growth.
    """

    def __init__(
        self,
        model: nn.Module,
        axes: AxisMap,
        parts: Parts,
        settings: Rounds,
        method: Method | None,
        log: Log,
        seed: int,
    ) -> None:
        self.model, self.parts, self.settings, self.log = model, parts, settings, log
        self.monitor = Monitor(every=2 * self.per_epoch, axes=list(GROWING), cohorts=1)
        self._order = torch.Generator().manual_seed(seed)
        self._seed, self._schedule, self._axes = seed, OnCall(), axes
        self._optimizer = self._adam()
        self.plasticity: Plasticity | None = None
        if method is not None:
            self.plasticity = Plasticity(
                model,
                self._optimizer,
                axes,
                schedule=self._schedule,
                grow=method,
                allocate=Uniform(),
                monitor=self.monitor,
                axes=list(GROWING),
                listen=settings.listen,
                seed=seed,
            )

    @property
    def axes(self) -> AxisMap:
        """Today's map."""
        return self.plasticity.axes if self.plasticity else self._axes

    @property
    def per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.parts.train) // self.settings.batch_size

    @property
    def units(self) -> int:
        """Of all growing layers."""
        return sum(self.axes.by_name[name].size for name in GROWING)

    def train(self, patience: int) -> int:
        """One round: until the validation loss has not fallen for so many epochs, then back to the best weights.

        Returns:
            the optimizer steps that it took.
        """
        best, waited, steps = math.inf, 0, 0
        kept: Mapping[str, Any] = {}
        for _ in range(self.settings.epochs):
            for batch in self._batches():
                self._step(batch)
                steps += 1
            loss = self._validation_loss()
            waited += 1
            if loss < best:
                best, waited = loss, 0
                kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            if waited >= patience:
                break
        self.model.load_state_dict(kept)
        return steps

    def grow(self, wanted: int, votes: bool, step: int) -> None:
        """So many units more in all: evenly, or where they are voted for. Adam begins anew."""
        assert self.plasticity is not None
        self.begin_anew()
        self.plasticity.optimizers = self._optimizer
        with self.log.timing():
            with self.log.editing():
                self._schedule.asked.append(self._votes(wanted) if votes else wanted)
                event = self.plasticity.step(closure=self._closure)
            for batch in islice(self._batches(), self.settings.listen):
                if event is None:
                    event = self._listened(batch)
        if event is not None:
            self.log.changed(step, event.births, event.deaths)

    def begin_anew(self) -> None:
        """Adam begins anew, and nothing grows."""
        self._optimizer = self._adam()

    def close(self) -> None:
        """Stop watching newborns."""
        self.monitor.close()

    def accuracy(self) -> float:
        """Share of test examples that the net gets right."""
        part = self.parts.test
        return float(self._judged(part, lambda outputs, y: (outputs.argmax(1) == y).sum()) / len(part))

    def _step(self, batch: Part) -> None:
        with self.log.timing():
            with self.log.counting(len(batch)):
                loss = cross_entropy(self.model(batch.x), batch.y)
                loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            if self.plasticity is not None:
                self.plasticity.step(loss)
        self.log.loss(loss.item())

    def _listened(self, batch: Part) -> Event | None:
        """A pass for statistics alone, and the edit if they are complete."""
        assert self.plasticity is not None
        with self.log.counting(len(batch), anew=True):
            cross_entropy(self.model(batch.x), batch.y).backward()
        self._optimizer.zero_grad()
        with self.log.editing():
            return self.plasticity.step(closure=self._closure)

    def _votes(self, wanted: int) -> dict[str, int]:
        """Candidates are trained for one epoch and judged in another, as published."""
        batches = chain(self._batches(), self._batches())

        def closure() -> Tensor:
            batch = next(batches)
            return cross_entropy(self.model(batch.x), batch.y)

        seed = torch.Generator().manual_seed(self._seed + self.units)
        view = View(self.axes, generator=seed, closure=closure)
        growing = [self.axes.by_name[name] for name in GROWING]
        return SVoD(steps=self.per_epoch, passes=self.per_epoch).votes(view, growing, wanted)

    def _closure(self) -> Tensor:
        part = self.parts.train
        chosen = torch.randint(len(part), (self.settings.batch_size,), device="cpu")
        return cross_entropy(self.model(part.x[chosen]), part.y[chosen])

    def _validation_loss(self) -> float:
        part = self.parts.validation
        found = self._judged(part, lambda outputs, y: cross_entropy(outputs, y, reduction="sum")) / len(part)
        return float(found)

    def _judged(self, part: Part, judge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of what a function says of outputs and labels, in eval mode."""
        self.model.eval()
        with torch.no_grad():
            chunks = zip(part.x.split(1000), part.y.split(1000), strict=True)
            found = torch.stack([judge(self.model(x), y) for x, y in chunks]).sum()
        self.model.train()
        return found

    def _batches(self) -> Iterator[Part]:
        return self.parts.train.batches(self.settings.batch_size, self._order)

    def _adam(self) -> Adam:
        settings = self.settings
        return Adam(self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
