"""One run of a net: two hidden layers on rows of a table, whose width may change while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import meristem
from meristem.diagnose import Monitor
from meristem.errors import ConfigError
from meristem.study.studies.tabular.newborns import parity
from meristem.study.studies.tabular.rows import Kind, Part, Rows, made_up, split
from meristem.study.studies.tabular.width import LEAST, Grow, Prune, controller
from meristem.train.data import Table
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.models import mlp
from meristem.train.record import Run, RunFolder


class Fit(Experiment):
    """A run.

    Attributes:
        data: the table; None: one that is made up.
        kind: of the one that is made up.
        width: of both hidden layers, at first.
        grow, prune: how it changes; None: not in this way.
        steps, batch_size: of training.
        learning_rate: of Adam, at first; it falls along half a cosine.
        listen: steps over which statistics are added up.
        evaluations: equally far apart, the last one at the end.
        watch: steps between two samples of newborns; what is made of them is not part of what is timed.
    """

    data: Literal["adult", "california_housing"] | None = None
    kind: Kind = "classes"
    width: int = Field(default=128, ge=LEAST)
    grow: Grow | None = None
    prune: Prune | None = None
    steps: int = Field(default=800, ge=10)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0)
    listen: int = Field(default=2, ge=1)
    evaluations: int = Field(default=20, ge=1)
    watch: int = Field(default=40, ge=1)

    def run(self, data: Table | None, place: RunFolder, progress: Progress) -> Run:
        """Trains. Raises `ConfigError` if a batch is larger than the data, `EditError` if the method is not defined for
        the net."""
        torch.manual_seed(self.seed)
        rows = split(made_up(self.kind) if data is None else data, self.seed)
        model = mlp(rows.train.inputs.shape[1:], rows.outputs, [self.width, self.width])
        axes = meristem.trace(model, rows.train.inputs[:2])
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        plasticity = controller(axes, optimizer, self.grow, self.prune, self.steps, self.listen, self.seed)
        monitor = Monitor(self.watch, keep=self.steps).begin(axes) if self.grow else None
        due = {step for way in (self.grow, self.prune) if way for step in way.due(self.steps)}
        heard = {step for at in due for step in (at - self.listen + 1, at + 1)}
        looks = {round(self.steps * k / self.evaluations) for k in range(1, self.evaluations + 1)}
        log, best, score = Log(place), (-float("inf"), 0.0), 0.0

        for step, (x, y) in enumerate(self._batches(rows.train), start=1):
            with log.timing():
                with log.counting(len(y), anew=step in heard):
                    loss = rows.loss(model(x), y)
                    loss.backward()
                optimizer.step()
                decay.step()
                optimizer.zero_grad()
            if monitor:
                monitor.step()
            if plasticity:
                with log.timing(), log.editing() if step in due else nullcontext():
                    event = plasticity.step(loss, self._closure(model, rows))
                if event:
                    axes = plasticity.axes
                    log.changed(step, event.births, event.deaths)
                    if monitor:
                        monitor.follow(axes)
            log.loss(loss.item())
            if step in looks:
                score = _score(model, rows, rows.test)
                best = max(best, (_score(model, rows, rows.held_out), score))
                log.evaluated(step, {"score": score}, axes)
            progress(step, self.steps)
        metrics = {
            "final score": score,
            "best score": best[1],
            "mean score": log.mean("score"),
            "held-out score": _score(model, rows, rows.held_out),
            "width": sum(axis.size for axis in axes.editable) / len(axes.editable),
            **parity(monitor.records if monitor else ()),
        }
        return log.finish(self.seed, metrics, axes, [record.plain() for record in monitor.records] if monitor else ())

    def _closure(self, model: nn.Module, rows: Rows) -> Callable[[], Tensor]:
        """Computes the loss of a batch drawn at random, for methods that evaluate it themselves."""

        def loss() -> Tensor:
            chosen = torch.randint(len(rows.train.targets), (self.batch_size,))
            return rows.loss(model(rows.train.inputs[chosen]), rows.train.targets[chosen])

        return loss

    def _batches(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of every step: each epoch in a new order drawn from the seed, without what is left."""
        order = torch.Generator().manual_seed(self.seed)
        per_epoch = len(part.targets) // self.batch_size
        if per_epoch == 0:
            raise ConfigError(f"batch_size is {self.batch_size}, but there are {len(part.targets)} rows to learn from")
        for step in range(self.steps):
            place = step % per_epoch
            if place == 0:
                chosen = torch.randperm(len(part.targets), generator=order).split(self.batch_size)
            yield part.inputs[chosen[place]], part.targets[chosen[place]]


def _score(model: nn.Module, rows: Rows, part: Part) -> float:
    with torch.no_grad():
        return rows.score(rows.answers(model(part.inputs)), part)
