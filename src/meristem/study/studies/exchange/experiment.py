"""One run: a net whose structure changes, or does not, within a course of operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

import meristem
from meristem.axes import AxisMap
from meristem.ledger import Account
from meristem.mask import Sparse
from meristem.plasticity import Plasticity
from meristem.study.studies.bottleneck.nets import prepared
from meristem.study.studies.exchange.sizes import Course, at, mean, scaled
from meristem.study.studies.exchange.ways import Way, controller, masks, shuffled
from meristem.train.data import DataSet
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.loop import Standardized, batch_loss, evaluate
from meristem.train.models import conv
from meristem.train.record import Run, RunFolder


class Trading(Experiment):
    """A convolutional net with BatchNorm, trained by SGD with momentum under half a cosine.

    Attributes:
        way: how structure changes, see `ways`.
        widths: of the reference net, whose operations are the unit of everything.
        shape: proportions of the layers at first, if they are not those of `widths`.
        course: operations over the run; the net begins with its first value.
        density: share of the weights that are there, where masks are kept: the dense net is larger by its inverse.
        steps: of a run at constantly 1 unit. One at m units on average has `steps / m`, so that training costs the
        same. interval: of edits, as a share of the run; `last`: when they end. share, margin: see `ways.controller`.
        listen: steps over which statistics are added up. batch_size, learning_rate, momentum: of training. images:
        training and test images that are used, the first ones; None: all. shrink: images are averaged over squares of
        so many pixels. evaluations: equally far apart, the last one at the end. device: where it runs.
    """

    data: Literal["digits", "fashion_mnist", "cifar10"] = "digits"
    way: Way = "still"
    widths: tuple[int, ...] = (8, 16, 32)
    shape: tuple[int, ...] | None = None
    course: Course = ((0.0, 1.0),)
    density: float = Field(default=1.0, gt=0, le=1)
    steps: int = Field(default=100, ge=1)
    interval: float = Field(default=0.1, gt=0, lt=1)
    last: float = Field(default=0.7, gt=0, le=1)
    share: float = Field(default=0.2, gt=0, le=1)
    margin: float = Field(default=2.0, gt=0)
    listen: int = Field(default=2, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    images: tuple[int | None, int | None] = (None, None)
    shrink: int = Field(default=1, ge=1)
    evaluations: int = Field(default=10, ge=1)
    device: str = "cpu"

    def run(self, data: DataSet, place: RunFolder, progress: Progress) -> Run:
        data = prepared(data, self.images, self.shrink)
        return Training(self, data, Log(place, self.device)).run(progress)


class Training:
    """A run on its way.

    Args:
        settings: of the run.
        data: the images that are used.
        log: is told what happens.
    """

    def __init__(self, settings: Trading, data: DataSet, log: Log) -> None:
        self.settings, self.data, self.log = settings, data, log
        self.inputs = Standardized(*(part.to(settings.device) for part in data.channel_statistics()))
        example = self.inputs(data.train_images[:2])
        with torch.random.fork_rng(devices=()):
            reference = self._net(settings.widths)
            axes = meristem.trace(reference, example)
        self.unit = float(axes.flops())
        operations = self.unit * at(settings.course, 0.0) / settings.density
        torch.manual_seed(settings.seed)
        self.model = self._net(scaled(axes, settings.shape or settings.widths, operations))
        self.axes = meristem.trace(self.model, example)
        self.steps = round(settings.steps / mean(settings.course, settings.density * self.axes.flops() / self.unit))
        self.interval, self.last = max(2, round(settings.interval * self.steps)), round(settings.last * self.steps)
        self.optimizer = SGD(self.model.parameters(), settings.learning_rate, settings.momentum)
        self.scheduler = CosineAnnealingLR(self.optimizer, self.steps)
        self.sparse = masks(settings.way, self.axes, self.optimizer, settings.density, self.interval, self.last)
        self.plasticity = self._controller()
        self.today = effective(self.axes, self.sparse)
        self.spent = self.traded = self.accuracy = 0.0
        self.edits = 0

    def run(self, progress: Progress) -> Run:
        """Train to the end."""
        settings, every = self.settings, self.settings.evaluations
        looks = {round(self.steps * k / every) for k in range(1, every + 1)}
        order = shuffled(len(self.data.train_labels), settings.batch_size, settings.seed)
        self.model.train()
        for step, chosen in zip(range(1, self.steps + 1), order, strict=False):
            with self.log.timing():
                loss = self._step(step, self.data.train_images[chosen], self.data.train_labels[chosen])
            self.log.loss(loss)
            if step in looks:
                self.accuracy = evaluate(self.model, self.inputs, self.data)
                values = {"accuracy": self.accuracy, "operations": self.today / self.unit}
                self.log.evaluated(step, values, self.axes)
            progress(step, self.steps)
        return self.log.finish(settings.seed, self._metrics(), self.axes)

    def _step(self, step: int, images: Tensor, labels: Tensor) -> float:
        """One optimizer step, and the edit that is due."""
        listening = self.plasticity is not None and -step % self.interval < self.settings.listen
        with self.log.counting(len(labels), anew=listening):
            loss = cross_entropy(self.model(self.inputs(images)), labels)
            loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.spent += 3 * self.today * len(labels)
        if self.plasticity is not None:
            self._edit(self.plasticity, step, loss)
        return loss.item()

    def _edit(self, plasticity: Plasticity, step: int, loss: Tensor) -> None:
        """What the controller does after a step."""
        closure = batch_loss(self.model, self.inputs, self.data, 2 * self.settings.batch_size)
        editing = step % self.interval == 0 and step <= self.last
        with self.log.editing() if editing else nullcontext():
            event = plasticity.step(loss, closure)
        if event is not None:
            self.axes = plasticity.axes
            self.today = effective(self.axes, self.sparse)
            self.edits += 1
            self.traded += sum(entry.cost for entry in event.ledger or () if entry.kind == "birth") / self.unit
            self.log.changed(step, event.births, event.deaths)

    def _metrics(self) -> dict[str, float]:
        trained = 3 * self.unit * self.settings.batch_size * self.settings.steps
        return {
            "final accuracy": self.accuracy,
            "mean accuracy": self.log.mean("accuracy"),
            "final operations": self.today / self.unit,
            "training operations": self.spent / trained,
            "traded": self.traded,
            "edits": float(self.edits),
            **{f"units of {axis.name}": float(axis.size) for axis in self.axes.editable},
        }

    def _controller(self) -> Plasticity | None:
        settings = self.settings
        return controller(
            settings.way,
            self.axes,
            self.optimizer,
            self.sparse,
            course=settings.course,
            operations=self.unit,
            steps=self.steps,
            interval=self.interval,
            last=self.last,
            share=settings.share,
            margin=settings.margin,
            listen=settings.listen,
            seed=settings.seed,
            monitor=self.log.monitor(self.steps),
        )

    def _net(self, widths: Sequence[int]) -> nn.Module:
        return conv(self.data.input_shape, self.data.classes, widths).to(self.settings.device)


def effective(axes: AxisMap, sparse: Sparse | None) -> float:
    """Operations of a forward pass on one image, without those with weights that are not there."""
    return Account(axes, {} if sparse is None else sparse.masks).flops
