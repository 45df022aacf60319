"""One run: a small GPT learns to predict characters, and grows on the way, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import meristem
from meristem.axes import AxisMap
from meristem.study.studies.language.growth import Stage, grown
from meristem.study.studies.language.net import GPT, Shape
from meristem.study.studies.language.outcome import outcome
from meristem.study.studies.language.source import Windows, made_up
from meristem.train.data import Text
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.record import Run, RunFolder


class Learn(Experiment):
    """Training at a constant learning rate; losses are those of a running average of the weights.

    The average stands in for the decay of the learning rate at the end of training, so that any two points of a course
    may be compared, not only ends.

    Attributes:
        start: the shape at first.
        stages: growth, in the order of `at`.
        final: the shape that sets the budget: `steps` steps of such a net.
        steps: see there.
        limit: a run goes on beyond the budget until the target is reached, at most to this multiple of it.
        target: the test loss, in nats a character, which it is about.
        context: characters of a window.
        head: features of a head.
        batch: windows in a step.
        rate: the learning rate of AdamW (betas 0.9 and 0.99).
        decay: its weight decay.
        warm_up: steps over which it rises, at first and after every growth.
        average: the share of the average that stays at every step, once it is old enough.
        looks: evaluations within the budget.
        windows: on how many windows of the test part.
        device: where it runs.
    """

    data: Literal["tinyshakespeare"] | None = None
    start: Shape = Shape()
    stages: tuple[Stage, ...] = ()
    final: Shape = Shape()
    steps: int = Field(default=100, ge=1)
    limit: float = Field(default=1.3, ge=1)
    target: float = 0.0
    context: int = Field(default=64, ge=2)
    head: int = Field(default=16, ge=1)
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=2e-3, gt=0)
    decay: float = Field(default=0.1, ge=0)
    warm_up: int = Field(default=100, ge=0)
    average: float = Field(default=0.98, ge=0, lt=1)
    looks: int = Field(default=40, ge=1)
    windows: int = Field(default=64, ge=1)
    device: str = "cpu"

    def run(self, data: Text | None, place: RunFolder, progress: Progress) -> Run:
        return _Course(self, made_up() if data is None else data, place).run(progress)


class _Course:
    """A net in training."""

    def __init__(self, settings: Learn, text: Text, place: RunFolder) -> None:
        self.settings = settings
        self.symbols = len(text.symbols)
        self.train = Windows(text.train.to(settings.device), settings.context)
        self.test = Windows(text.test.to(settings.device), settings.context).spread(settings.windows)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.budget = settings.steps * self._operations(settings.final)
        torch.manual_seed(settings.seed)
        self.model = self._net(settings.start)
        self.axes: AxisMap = meristem.trace(self.model, self.test[0][:2])
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.rate, (0.9, 0.99), weight_decay=settings.decay, fused=True
        )
        self.average = self._averaged()
        self.factor = 1.0
        self.log = Log(place, settings.device)
        self.monitor = self.log.monitor(settings.steps).begin(self.axes)
        self.step = self.born = 0
        self.since = 0.0

    def run(self, progress: Progress) -> Run:
        """All of it."""
        settings, look = self.settings, 0
        stages = list(settings.stages)
        births: dict[str, float] = dict.fromkeys(("loss before birth", "loss at birth", "change at birth"), nan)
        loss = self._look()
        while self.log.flops < self.budget * (settings.limit if loss > settings.target else 1.0):
            if stages and self.log.flops >= stages[0].at * self.budget:
                births = self._grow(stages.pop(0))
            self._step()
            if self.log.flops >= (look + 1) * self.budget / settings.looks:
                look = int(self.log.flops / self.budget * settings.looks)
                loss = self._look()
            progress(min(look, settings.looks), settings.looks)
        run = self.log.finish(settings.seed, {}, self.axes)
        return replace(run, metrics={**outcome(run.evaluations, settings.target, self.budget, self.since), **births})

    def _step(self) -> None:
        settings = self.settings
        warm = min(1.0, (self.step - self.born + 1) / (settings.warm_up + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * self.factor * warm
        with self.log.timing():
            x, y = self.train.drawn(settings.batch, self.order)
            with self.log.counting(settings.batch):
                loss = _loss(self.model, x, y)
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update_parameters(self.model)
        self.monitor.step()  # for figures: not timed, since fixed nets have no newborns to look at
        self.step += 1
        self.log.loss(loss.item())

    def _grow(self, stage: Stage) -> dict[str, float]:
        """Growth; what the loss of the net itself, on test windows, was before and is after it."""
        before = self._test_loss(self.model)
        with self.log.timing(), self.log.editing():
            self.axes, births = grown(
                self.axes, self.optimizer, stage, self._drawn_loss, self.settings.seed, self.average
            )
            if stage.learned is not None:  # the average has copies, which is not what was learned
                self.average = self._averaged()
            self.factor, self.born = stage.rate, self.step if stage.warm_up else self.born
        self.monitor.follow(self.axes)
        self.since = self.log.flops
        self.log.changed(self.step, births, {})
        after = self._test_loss(self.model)
        self.log.evaluated(self.step, {"loss at birth": after}, self.axes)
        return {"loss before birth": before, "loss at birth": after, "change at birth": abs(after - before)}

    def _drawn_loss(self) -> Tensor:
        draw = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return _loss(self.model, *self.train.drawn(self.settings.batch, draw))

    def _look(self) -> float:
        loss = self._test_loss(self.average.module if self.step else self.model)
        self.log.evaluated(self.step, {"test loss": loss}, self.axes)
        return loss

    def _test_loss(self, model: nn.Module) -> float:
        with torch.no_grad():
            pairs = zip(self.test[0].split(16), self.test[1].split(16), strict=True)
            found = [(_loss(model, x, y) * len(x)).item() for x, y in pairs]
        return sum(found) / len(self.test[0])

    def _averaged(self) -> AveragedModel:
        keep = self.settings.average

        def averaged(old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
            share = min(keep, (1 + int(count)) / (10 + int(count)))
            for mean, tensor in zip(old, new, strict=True):
                mean.lerp_(tensor, 1 - share)

        return AveragedModel(self.model, multi_avg_fn=averaged)

    def _net(self, shape: Shape) -> GPT:
        return GPT(self.symbols, self.settings.context, shape, self.settings.head).to(self.settings.device)

    def _operations(self, shape: Shape) -> int:
        """Of one step of a net of a shape."""
        x = self.test[0][:1].expand(self.settings.batch, -1)
        with FlopCounterMode(display=False) as counter:
            _loss(self._net(shape), x, x).backward()
        return counter.get_total_flops()


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model(x).flatten(0, 1), y.flatten())
