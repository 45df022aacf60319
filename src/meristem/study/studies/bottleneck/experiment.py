"""One run: a net of some width is trained, and grows to its full width if a method is named."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import meristem
from meristem.allocate import Allocator, Bottleneck, Limits, Proportional
from meristem.axes import AxisMap
from meristem.plasticity import Plasticity
from meristem.schedule import At
from meristem.study.studies.bottleneck.nets import Net, on, prepared
from meristem.train.build import GROWTH, build_optimizer, build_scheduler
from meristem.train.config import OptimizerConfig, TrainConfig
from meristem.train.data import DataSet
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.loop import Standardized, batch_loss, batches, evaluate
from meristem.train.record import Run, RunFolder

ALLOCATORS: Mapping[str, type[Allocator]] = {"proportional": Proportional, "bottleneck": Bottleneck}


class Growing(Experiment):
    """A run.

    Attributes:
        net: at its full width.
        share: of the full width, at first.
        method: a growth method of `meristem.grow` and its `options`; None: the net keeps its width.
        where: newborns go to layers in proportion to their sizes, or where the predicted decrease of the loss is
            largest; never beyond the full width.
        edits: how often the net grows, equally far apart from `first` to `last`, in shares of the run. Every time it is
            asked for an equal part of all units that are still missing.
        listen: steps over which statistics are added up, for methods that need some.
        epochs, batch_size, optimizer: of training.
        evaluations: equally far apart, the last one at the end.
        images: training and test images that are used, the first ones; None: all.
        shrink: images are averaged over squares of so many pixels.
        device: where it runs.
    """

    data: Literal["digits", "cifar10", "cifar100"] = "cifar10"
    net: Net = Net()
    share: float = Field(default=1.0, gt=0, le=1)
    method: str | None = None
    options: dict[str, Any] = Field(default={})
    where: Literal["proportional", "bottleneck"] = "proportional"
    edits: int = Field(default=8, ge=1)
    first: float = Field(default=0.05, ge=0, le=1)
    last: float = Field(default=0.4, ge=0, le=1)
    listen: int = Field(default=4, ge=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluations: int = Field(default=10, ge=1)
    images: tuple[int | None, int | None] = (None, None)
    shrink: int = Field(default=1, ge=1)
    device: str = "cpu"

    def run(self, data: DataSet, place: RunFolder, progress: Progress) -> Run:
        """Trains. Raises `ConfigError` if a batch is larger than the data, `EditError` if the method is not defined for
        the net."""
        data = prepared(data, self.images, self.shrink)
        torch.manual_seed(self.seed)
        model = self.net.build(data, self.share).to(self.device)
        final, full = self.net.sizes(data, 1.0), self.net.parameters(data, 1.0)
        inputs = Standardized(*(part.to(self.device) for part in data.channel_statistics()))
        data = on(data, self.device)
        axes = meristem.trace(model, inputs(data.train_images[:2]))
        optimizer = build_optimizer(self.optimizer, model)
        steps = len(data.train_labels) // self.batch_size * self.epochs
        scheduler = build_scheduler(self.optimizer, optimizer, steps)
        log, accuracy = Log(place, self.device), 0.0
        plasticity = self._plasticity(axes, optimizer, final, steps) if self.method else None
        monitor = log.monitor(steps).begin(axes) if plasticity else None  # for figures: not timed
        due = self._due(steps) if plasticity else []
        anew = {step for at in due for step in range(at - self.listen + 1, at + 1)}
        looks = {round(steps * k / self.evaluations) for k in range(1, self.evaluations + 1)}

        model.train()
        for step, (images, labels) in enumerate(batches(data, self._training()), start=1):
            with log.timing():
                with log.counting(len(labels), anew=step in anew):
                    loss = cross_entropy(model(inputs(images)), labels)
                    loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if monitor:
                monitor.step()
            if plasticity:
                with log.timing(), log.editing() if step in due else nullcontext():
                    event = plasticity.step(loss, batch_loss(model, inputs, data, self.batch_size))
                if event:
                    axes = plasticity.axes
                    log.changed(step, event.births, event.deaths)
                    if monitor:
                        monitor.follow(axes)
            log.loss(loss.item())
            if step in looks:
                accuracy = evaluate(model, inputs, data)
                log.evaluated(step, {"accuracy": accuracy}, axes)
            progress(step, steps)
        metrics = {
            "final accuracy": accuracy,
            "mean accuracy": log.mean("accuracy"),
            "share of the large net": axes.parameter_count() / full,
        }
        return log.finish(self.seed, metrics, axes)

    def _due(self, steps: int) -> list[int]:
        """The steps after which the net grows."""
        gap = (self.last - self.first) / max(self.edits - 1, 1)
        return [max(self.listen, round(steps * (self.first + gap * edit))) for edit in range(self.edits)]

    def _plasticity(self, axes: AxisMap, optimizer: Optimizer, final: Mapping[str, int], steps: int) -> Plasticity:
        due, growing = self._due(steps), [name for name, size in final.items() if size > axes.by_name[name].size]
        made: list[Plasticity] = []

        def amount(step: int) -> int:
            today = made[0].axes if made else axes
            missing = sum(final[name] - today.by_name[name].size for name in growing)
            return -(-missing // sum(at >= step for at in due))

        limits = {name: Limits(maximum=final[name]) for name in growing}
        made.append(
            Plasticity(
                axes.model,
                optimizer,
                axes,
                schedule=At(due, grow=amount),
                grow=GROWTH[self.method or ""](**self.options),
                allocate=ALLOCATORS[self.where](limits=limits),
                axes=lambda axis: axis.name in growing,
                listen=self.listen,
                seed=self.seed,
            )
        )
        return made[0]

    def _training(self) -> TrainConfig:
        """The part of the settings that the order of the data follows from."""
        return TrainConfig(epochs=self.epochs, batch_size=self.batch_size, seed=self.seed, grow=None, prune=None)
