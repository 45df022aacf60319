"""One run: cycles of training, between which units are born or die, and what becomes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from meristem.study.studies.stability.early import Early
from meristem.study.studies.stability.inserted import Insert, Remove
from meristem.study.studies.stability.masked import Dense, Grow, Prune
from meristem.study.studies.stability.metrics import at_fifths
from meristem.study.studies.stability.nets import Activation, Net
from meristem.study.studies.stability.training import Training, prepared
from meristem.train.data import DataSet
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.record import Run, RunFolder


class Cycles(Experiment):
    """Cycles of training with a turnover of units between them.

    Attributes:
        net, widths, activation: see `nets.build`.
        images: training and test images that are used, the first ones; None: all.
        shrink: images are averaged over squares of so many pixels.
        way: how structure changes.
        cycles: how many; `epochs`: how long each is.
        batch_size, learning_rate, momentum: of SGD; the rate falls to 0 over the whole run along half a cosine.
        looks: evaluations in each cycle, equally far apart, the last at its end.
        retrain: afterwards, train a freshly initialized net under the final mask for so many epochs, in as many cycles.
        device: where it runs.
    """

    data: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = "digits"
    net: Net = "mlp"
    widths: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    images: tuple[int | None, int | None] = (None, None)
    shrink: int = Field(default=1, ge=1)
    way: Annotated[Dense | Grow | Prune | Insert | Remove | Early, Field(discriminator="kind")] = Dense()
    cycles: int = Field(default=5, ge=1)
    epochs: float = Field(default=4, gt=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    looks: int = Field(default=2, ge=1)
    retrain: float = Field(default=0, ge=0)
    device: str = "cpu"

    def run(self, data: DataSet, place: RunFolder, progress: Progress) -> Run:
        """Raises `ConfigError` if a cycle has no step."""
        images = prepared(data, self)
        log = Log(place, self.device)
        first = Training(self, images, self.way, self.seed)
        total = round(first.total * (1 + self.retrain / (self.cycles * self.epochs)))
        ends = first.run(log, lambda step: progress(step, total))
        over = {"TAA": sum(ends) / len(ends), "accuracy at fifths": at_fifths(ends)}
        metrics = {"cycle accuracy": ends[-1], **over, **first.metrics()}
        if self.retrain:
            again = first.fresh(self.retrain / self.cycles)
            ends = again.run(Log(None, self.device), lambda step: progress(min(first.total + step, total), total))
            metrics |= {"WT accuracy": ends[-1], "WT TAA": sum(ends) / len(ends)}
        return log.finish(self.seed, metrics, first.turnover.axes, [found.plain() for found in first.records])
