"""One run of the benchmark: a net trains, something changes its structure, and all is measured alike."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

import meristem
from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.errors import ConfigError
from meristem.mask import weights_of
from meristem.study.studies.bottleneck.nets import on, prepared
from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.contender import Contender, Course, Level, Setting, Still, norms
from meristem.study.studies.grid.layers import Layers
from meristem.study.studies.grid.net import first_net, halved, last_net
from meristem.study.studies.grid.neurons import Neurons
from meristem.study.studies.grid.running import Running
from meristem.study.studies.grid.settings import PROTOCOL
from meristem.study.studies.grid.submission import Submitted
from meristem.study.studies.grid.twin import Probe, Watch
from meristem.study.studies.grid.weights import DENSITIES, Weights
from meristem.train.build import build_optimizer, build_scheduler
from meristem.train.config import OptimizerConfig, TrainConfig
from meristem.train.data import DataSet
from meristem.train.experiment import Experiment, Progress, Strict
from meristem.train.log import Log
from meristem.train.loop import Standardized, batch_loss, batches, evaluate
from meristem.train.record import Run, RunFolder

PROBE = 512
"""Training images on which twins are compared: the first ones."""


class Fixed(Strict):
    """The net with which the contest begins stays as it is."""

    kind: Literal["fixed"] = "fixed"

    def begin(self, setting: Setting) -> Contender:
        """Nothing."""
        return Still(setting.axes)


class Contest(Experiment):
    """One net under the protocol.

    Attributes:
        level, course: which contest: what is edited, and whether the net grows, shrinks or keeps its size.
        norm: whether VGG-11 has batch normalizations.
        way: who takes part.
        protocol: see `settings.PROTOCOL`.
        images, shrink, widths, steps, batch_size, learning_rate, weight_decay, times, horizon, tries, looks, device:
            see `settings.Size`.
    """

    data: Literal["digits", "cifar10"] = "digits"
    level: Level = "neuron"
    course: Course = "growing"
    norm: bool = True
    way: Annotated[Fixed | Neurons | Layers | Cells | Weights | Submitted, Field(discriminator="kind")] = Fixed()
    images: tuple[int | None, int | None] = (None, None)
    shrink: int = Field(default=1, ge=1)
    widths: tuple[int, ...] = Field(default=(8,) * 8, min_length=8, max_length=8)
    steps: int = Field(default=100, ge=4)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    weight_decay: float = Field(default=2e-4, ge=0)
    times: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    horizon: float = Field(default=0.1, gt=0, lt=1)
    tries: int = Field(default=10, ge=1)
    looks: int = Field(default=5, ge=1)
    device: str = "cpu"
    protocol: str = PROTOCOL

    @model_validator(mode="after")
    def _fitting(self) -> Contest:
        if self.norm not in norms(self.level):
            raise ValueError(f"the level {self.level!r} is about batch normalizations: norm should be True")
        return self

    def run(self, data: DataSet, place: RunFolder, progress: Progress) -> Run:
        """Trains. Raises `ConfigError` if a batch is larger than the data, `EditError` if the way does not fit."""
        data = prepared(data, self.images, self.shrink)
        inputs = Standardized(*(part.to(self.device) for part in data.channel_statistics()))
        data = on(data, self.device)
        torch.manual_seed(self.seed)
        model = first_net(self.level, self.course, data.input_shape, data.classes, self.widths, self.norm)
        model.to(self.device).train()
        optimizer = build_optimizer(self._optimizer(), model)
        scheduler = build_scheduler(self._optimizer(), optimizer, self.steps)
        probe = Probe(inputs(data.train_images[:PROBE]), data.train_labels[:PROBE])
        axes = meristem.trace(model, probe.x[:2])
        log, accuracy = Log(place, self.device), 0.0
        setting = self._setting(axes, optimizer, probe.x, log.monitor(self.steps))
        contender = self.way.begin(setting)
        watch = Watch(contender, optimizer, probe, setting.times, max(1, round(self.horizon * self.steps)))
        closure = batch_loss(model, inputs, data, self.batch_size)
        running = Running(model, optimizer, scheduler, contender, watch, log, closure)
        looks = {round(self.steps * k / self.looks) for k in range(1, self.looks + 1)}
        epochs = islice(batches(data, self._training(len(data.train_labels))), self.steps)
        for step, (images, labels) in enumerate(epochs, start=1):
            running.step(step, inputs(images), labels)
            if step in looks:
                accuracy = evaluate(model, inputs, data)
                log.evaluated(step, {"accuracy": accuracy}, contender.axes)
            progress(step, self.steps)
        metrics = {"final accuracy": accuracy, "mean accuracy": log.mean("accuracy")}
        metrics |= running.metrics(self._allowed(data))
        return log.finish(self.seed, metrics, contender.axes)

    def _setting(self, axes: AxisMap, optimizer: Optimizer, example: Tensor, monitor: Monitor) -> Setting:
        large, small = self.widths, halved(self.widths)
        first, last = {"growing": (small, large), "shrinking": (large, small), "constant": (large, large)}[self.course]
        neurons = self.level == "neuron"
        names = [axes[f"layer{number}.conv"].name for number in range(1, len(large) + 1)] if neurons else []
        return Setting(
            model=axes.model,
            axes=axes,
            optimizer=optimizer,
            example=example,
            level=self.level,
            course=self.course,
            norm=self.norm,
            sizes=dict(zip(names, zip(first, last, strict=True), strict=False)),
            steps=self.steps,
            times=tuple(max(1, round(share * self.steps)) for share in self.times),
            tries=self.tries,
            seed=self.seed,
            monitor=monitor,
        )

    def _allowed(self, data: DataSet) -> int:
        """Parameters with which the contest ends."""
        net = last_net(self.level, self.course, data.input_shape, data.classes, self.widths, self.norm)
        dense = sum(parameter.numel() for parameter in net.parameters())
        if self.level != "weight":
            return dense
        masked = sum(parameter.numel() for parameter in weights_of(net, None).values())
        return dense - masked + round(DENSITIES[self.course][1] * masked)

    def _optimizer(self) -> OptimizerConfig:
        return OptimizerConfig(learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def _training(self, images: int) -> TrainConfig:
        """What the order of the data follows from. Raises `ConfigError` if a batch is larger than the data."""
        per_epoch = images // self.batch_size
        if per_epoch == 0:
            raise ConfigError(f"batch_size is {self.batch_size}, but there are {images} images")
        epochs = -(-self.steps // per_epoch)
        return TrainConfig(epochs=epochs, batch_size=self.batch_size, seed=self.seed, grow=None, prune=None)
