"""The training loop of the study: cycles, evaluations, edits between cycles and probes of newborns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from meristem.diagnose.record import Record
from meristem.errors import ConfigError
from meristem.study.studies.stability.masked import Dense
from meristem.study.studies.stability.metrics import by_layer, newborn_metrics, survivor_change, unit_metrics
from meristem.study.studies.stability.nets import Activation, Gated, Net, build, hidden
from meristem.study.studies.stability.probe import Newborn, measure, newborns, record
from meristem.study.studies.stability.turnover import Setting, Way
from meristem.train.data import DataSet
from meristem.train.log import Log
from meristem.train.loop import Standardized

PROBE = 256
"""Training images on which units are scored and probed: the first ones."""

AGES = (0.125, 0.25, 0.5, 1.0)
"""When newborns are probed, in cycles since they were born, beside their birth; the last is the end of the cycle."""

EARLY = 0.25
"""The age in cycles that counts as early."""

FRESH = 1_000_000
"""Added to the seed of a run for the net that is trained anew under its final mask."""


class Settings(Protocol):
    """What training asks of the settings of a run; see `experiment.Cycles`."""

    net: Net
    widths: tuple[int, ...]
    activation: Activation
    images: tuple[int | None, int | None]
    shrink: int
    cycles: int
    epochs: float
    batch_size: int
    learning_rate: float
    momentum: float
    looks: int
    device: str


@dataclass(frozen=True)
class Images:
    """Standardized images and labels on the device."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def prepared(data: DataSet, config: Settings) -> Images:
    """The images that a run uses."""
    train, test = config.images
    data = replace(
        data,
        train_images=_shrunk(data.train_images[:train], config.shrink),
        train_labels=data.train_labels[:train],
        test_images=_shrunk(data.test_images[:test], config.shrink),
        test_labels=data.test_labels[:test],
    )
    inputs = Standardized(*data.channel_statistics())
    return Images(
        inputs(data.train_images).to(config.device),
        data.train_labels.to(config.device),
        inputs(data.test_images).to(config.device),
        data.test_labels.to(config.device),
        data.classes,
    )


def _shrunk(images: Tensor, factor: int) -> Tensor:
    return avg_pool2d(images.float(), factor).round().to(torch.uint8) if factor > 1 else images


class Training:
    """One net in training.

    Attributes:
        total: optimizer steps of all cycles, `per_cycle` each.
        turnover: what changes the net.
        records: probes of its units.

    Raises:
        ConfigError: a cycle has no step.
    """

    def __init__(self, config: Settings, images: Images, way: Way, seed: int) -> None:
        self.config, self.images, self.seed = config, images, seed
        self.per_cycle = round(config.epochs * len(images.y) / config.batch_size)
        if self.per_cycle < 1:
            raise ConfigError(f"a cycle of {config.epochs} epochs has no step of {config.batch_size} images")
        self.total = self.per_cycle * config.cycles
        self.records: list[Record] = []
        self._newborns: list[list[Newborn]] = []
        self._offsets = {max(1, round(age * self.per_cycle)) for age in AGES}
        self._looks = {max(1, round(k * self.per_cycle / config.looks)) for k in range(1, config.looks + 1)}
        self._changes: list[float] = []
        self._unit_steps = 0
        torch.manual_seed(seed)
        model = build(config.net, images.x.shape[1:], images.classes, config.widths, config.activation, way.masked)
        model.to(config.device)
        widths = dict(zip(hidden(model), config.widths, strict=True))
        batch = (images.x[:PROBE], images.y[:PROBE])
        self.turnover = way.begin(Setting(model, self._optimizer, widths, config.cycles, self.per_cycle, batch, seed))
        self._watched = not isinstance(way, Dense)

    def _optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), self.config.learning_rate, self.config.momentum)

    def run(self, log: Log, progress: Callable[[int], None]) -> list[float]:
        """All cycles.

        Returns:
            the test accuracy at the end of each.
        """
        turnover, model = self.turnover, self.turnover.model
        scheduler = CosineAnnealingLR(turnover.optimizer, self.total)
        ends: list[float] = []
        model.train()
        for step, (x, y) in enumerate(self._batches(), start=1):
            edits = turnover.edits(step)
            with log.timing():
                with log.counting(len(y), anew=edits):
                    loss = cross_entropy(model(x), y)
                    loss.backward()
                turnover.optimizer.step()
                scheduler.step()
                turnover.optimizer.zero_grad()
            log.loss(loss.item())
            self._unit_steps += turnover.active()
            accuracy = self._look(step, log)
            if step % self.per_cycle == 0:
                ends.append(accuracy)
            before = self._probe(step) if self._watched and self._due(step) else {}
            with log.timing(), log.editing() if edits else nullcontext():
                births, deaths = turnover.after(step, loss, self._closure)
            if births or deaths:
                log.changed(step, births, deaths)
                after = self._probe(step)
                if any(deaths.values()):
                    self._changes.append(survivor_change(before, after, turnover.units()))
            progress(step)
        return ends

    def metrics(self) -> dict[str, float]:
        """What became of newborns and survivors, and how many units took part for how many epochs (all: 1 an epoch)."""
        epochs = self.per_cycle / self.config.epochs
        return {
            "unit-epochs": self._unit_steps / sum(self.config.widths) / epochs,
            **newborn_metrics(self.records, max(1, round(EARLY * self.per_cycle)), self.per_cycle),
            **unit_metrics(self._newborns),
            **by_layer(self.records, self.per_cycle),
            "survivor change": sum(self._changes) / len(self._changes) if self._changes else math.nan,
        }

    def fresh(self, epochs: float) -> Training:
        """The same training of a freshly initialized net: under the final mask, or of the final widths.

        Args:
            epochs: of each cycle.
        """
        units, masked = self.turnover.units(), self.turnover.axes is None
        config, changes = cast(Any, self.config), dict[str, Any](epochs=epochs)
        if not masked:
            changes["widths"] = tuple(len(found.active) for found in units.values())
        made = Training(config.model_copy(update=changes), self.images, Dense(), self.seed + FRESH)
        for name, found in units.items():
            gate = made.turnover.model.get_submodule(f"act{name[2:]}")
            assert isinstance(gate, Gated)
            gate.mask.copy_(found.active.to(gate.mask))
        return made

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of every step: epochs in new orders, one after the other."""
        order, size = torch.Generator().manual_seed(self.seed), self.config.batch_size
        left = torch.empty(0, dtype=torch.int64)
        for _ in range(self.total):
            if len(left) < size:
                left = torch.randperm(len(self.images.y), generator=order)
            chosen, left = left[:size].to(self.images.y.device), left[size:]
            yield self.images.x[chosen], self.images.y[chosen]

    def _look(self, step: int, log: Log) -> float:
        """Evaluates at the end of a cycle and a few times in it."""
        if self._offset(step) not in self._looks:
            return math.nan
        accuracy, turnover = evaluate(self.turnover.model, self.images), self.turnover
        sizes = {name: int(found.active.sum()) for name, found in turnover.units().items()}
        parameters = sum(p.numel() for p in turnover.model.parameters())
        log.evaluated(step, {"accuracy": accuracy, "active units": sum(sizes.values())}, None, parameters, sizes)
        return accuracy

    def _due(self, step: int) -> bool:
        offset = self._offset(step)
        return offset == self.per_cycle or (step > self.per_cycle and offset in self._offsets)

    def _offset(self, step: int) -> int:
        """The number of a step in its cycle, from 1 on."""
        return (step - 1) % self.per_cycle + 1

    def _probe(self, step: int) -> dict[str, Tensor]:
        tables = measure(self.turnover.model, self.images.x[:PROBE], self.images.y[:PROBE])
        units = self.turnover.units()
        self.records.append(record(step, tables, units))
        self._newborns.append(newborns(step, tables, units))
        return tables

    def _closure(self) -> Tensor:
        chosen = torch.randint(len(self.images.y), (self.config.batch_size,)).to(self.images.y.device)
        return cross_entropy(self.turnover.model(self.images.x[chosen]), self.images.y[chosen])


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, batch_size: int = 1000) -> float:
    """Share of test images that the net gets right. Leaves the net in training mode."""
    model.eval()
    parts = zip(images.test_x.split(batch_size), images.test_y.split(batch_size), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    model.train()
    return right / len(images.test_y)
