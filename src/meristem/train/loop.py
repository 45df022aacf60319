"""The reference loop: an ordinary PyTorch training loop, and the one line that edits the net while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import meristem
from meristem.errors import ConfigError
from meristem.train.build import build_model, build_optimizer, build_plasticity, build_scheduler
from meristem.train.config import TrainConfig
from meristem.train.data import DataSet
from meristem.train.experiment import Progress, silent
from meristem.train.log import Log
from meristem.train.record import Run, RunFolder


def train(config: TrainConfig, data: DataSet, place: RunFolder, progress: Progress = silent) -> Run:
    """Trains as configured.

    Args:
        config: what to do.
        data: the data set that it names.
        place: the folder of the run.
        progress: called after every step with the number of steps done and the number of all steps.

    Raises:
        ConfigError: the model refuses its options, the data are no images, or a batch is larger than the data.
    """
    if not isinstance(data, DataSet):
        raise ConfigError(
            f"data: {config.data!r} are no images, but a {type(data).__name__}: only images are trained on"
        )
    torch.manual_seed(config.seed)
    inputs = Standardized(*data.channel_statistics())
    per_epoch = _steps_per_epoch(config, data)
    total = per_epoch * config.epochs
    due = {round(total * k / config.evaluations) for k in range(1, config.evaluations + 1)}

    model = build_model(config, data)
    optimizer = build_optimizer(config.optimizer, model)
    scheduler = build_scheduler(config.optimizer, optimizer, total)
    axes = meristem.trace(model, inputs(data.train_images[:2]))
    plasticity = build_plasticity(config, axes, optimizer, per_epoch)
    log = Log(place)
    accuracy = 0.0

    model.train()
    for step, (images, labels) in enumerate(batches(data, config), start=1):
        with log.timing():
            with log.counting(len(labels)):
                loss = cross_entropy(model(inputs(images)), labels)
                loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            event = plasticity.step(loss, batch_loss(model, inputs, data, config.batch_size)) if plasticity else None
        log.loss(loss.item())
        if plasticity and event:
            axes = plasticity.axes
            log.changed(step, event.births, event.deaths)
        if step in due:
            accuracy = evaluate(model, inputs, data)
            log.evaluated(step, {"accuracy": accuracy}, axes)
        progress(step, total)
    return log.finish(config.seed, {"final accuracy": accuracy, "mean accuracy": log.mean("accuracy")}, axes)


@dataclass(frozen=True, slots=True)
class Standardized:
    """Images as the net sees them: each channel with mean 0 and variance 1 over the training images."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (n, channels, height, width) to float32 of the same shape."""
        return (images.float() - self.mean) / self.deviation


def batch_loss(model: nn.Module, inputs: Standardized, data: DataSet, batch_size: int) -> Callable[[], Tensor]:
    """Computes the training loss of a batch drawn at random, for growth methods that evaluate it themselves."""

    def loss() -> Tensor:
        chosen = torch.randint(len(data.train_labels), (batch_size,))
        return cross_entropy(model(inputs(data.train_images[chosen])), data.train_labels[chosen])

    return loss


def batches(data: DataSet, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of every step: each epoch in a new order drawn from the seed, without the incomplete batch."""
    order = torch.Generator().manual_seed(config.seed)
    steps = _steps_per_epoch(config, data)
    for _ in range(config.epochs):
        shuffled = torch.randperm(len(data.train_labels), generator=order)
        for chosen in shuffled[: steps * config.batch_size].split(config.batch_size):
            yield data.train_images[chosen], data.train_labels[chosen]


def evaluate(model: nn.Module, inputs: Standardized, data: DataSet, batch_size: int = 1000) -> float:
    """Share of test images that the net gets right. Leaves the net in training mode."""
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in zip(data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True):
            right += int((model(inputs(images)).argmax(1) == labels).sum())
    model.train()
    return right / len(data.test_labels)


def _steps_per_epoch(config: TrainConfig, data: DataSet) -> int:
    steps = len(data.train_labels) // config.batch_size
    if steps == 0:
        raise ConfigError(f"batch_size is {config.batch_size}, but {data.name} has {len(data.train_labels)} images")
    return steps
