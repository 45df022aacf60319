"""One run: task after task, without ever beginning anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn.functional import avg_pool2d, cross_entropy

from meristem.axes import AxisMap, trace
from meristem.diagnose import Monitor, OnlineAccuracy, Probe, probe
from meristem.study.studies.continual.learner import Learner, Setting, Way, zeroed
from meristem.study.studies.continual.nets import Activation, Net, build, head
from meristem.study.studies.continual.resized import Elastic, Growing, Pruned
from meristem.study.studies.continual.still import Backprop, Perturbed, Protected, Pulled
from meristem.study.studies.continual.streams import Kind, Stream, Task, batches
from meristem.study.studies.continual.turnover import ContinualBackprop, Recycled, Renewed
from meristem.train.data import DataSet
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.loop import Standardized
from meristem.train.record import Run, RunFolder

PROBE = 256
"""Images of a task on which units are probed at its end, at most."""

LEAST = 2
"""Units of a layer, whatever share a net begins with: a dimension of one is broadcast, and could not grow."""

MEASURES = ("dead", "dormant", "inactive", "effective rank", "relative rank", "weight magnitude")
"""What the probe tells, in addition to accuracy."""

AnyWay = Backprop | Pulled | Perturbed | Protected | ContinualBackprop | Recycled | Growing | Pruned | Elastic | Renewed


class Lifelong(Experiment):
    """A stream of tasks, learned one after the other by one net.

    Attributes:
        stream: what changes from task to task, see `Stream`.
        images: of a task.
        pool: training images from which tasks are made, the first ones; None: all.
        shrink: images are averaged over squares of so many pixels.
        net, widths, activation: see `nets.build`.
        way: how it learns.
        tasks: how many.
        steps: optimizer steps of a task.
        batch_size, learning_rate: of Adam.
        device: where it runs.
    """

    data: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = "digits"
    stream: Kind = "random labels"
    images: int = Field(default=320, ge=1)
    pool: int | None = None
    shrink: int = Field(default=1, ge=1)
    net: Net = "mlp"
    widths: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"
    way: Annotated[AnyWay, Field(discriminator="kind")] = Backprop()
    tasks: int = Field(default=8, ge=2)
    steps: int = Field(default=600, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=0.003, gt=0)
    device: str = "cpu"

    def run(self, data: DataSet, place: RunFolder, progress: Progress) -> Run:
        """Raises `ConfigError` if a task cannot be made."""
        torch.manual_seed(self.seed)
        stream = self._stream(data)
        log, online, looks = Log(place, self.device), OnlineAccuracy(), list[dict[str, float]]()
        learner = self._learner(stream, self.way, log.monitor(self.tasks * self.steps))
        order = torch.Generator().manual_seed(self.seed)
        step, total, sizes = 0, self.tasks * self.steps, learner.axes.sizes
        for number in range(self.tasks):
            task = stream.task(number)
            task = Task(task.inputs.to(self.device), task.labels.to(self.device), task.counts)
            if number:
                with log.timing():
                    learner.between()
                    if self.stream == "binary":
                        zeroed(head(learner.model))
            for x, y in batches(task, self.steps, self.batch_size, order):
                step += 1
                last = step % self.steps == 0
                with log.timing():
                    with log.counting(len(y)):
                        outputs = learner.model(x)
                        loss = learner.loss(outputs, y)
                        loss.backward()
                    learner.optimizer.step()
                    learner.optimizer.zero_grad()
                online.add(outputs, y)
                log.loss(loss.item())
                if last:
                    looks.append(self._look(learner.axes, task, online.restart()))
                    log.evaluated(step, looks[-1], learner.axes)
                with log.timing():
                    learner.after(step, loss)
                if last or learner.axes.sizes != sizes:
                    births, deaths = learner.changes()
                    if births or deaths:
                        log.changed(step, births, deaths)
                    sizes = learner.axes.sizes
                progress(step, total)
        return log.finish(self.seed, metrics(looks), learner.axes)

    def _stream(self, data: DataSet) -> Stream:
        scaled = Standardized(*data.channel_statistics())(data.train_images[: self.pool])
        inputs = avg_pool2d(scaled, self.shrink) if self.shrink > 1 else scaled
        labels = data.train_labels[: self.pool]
        return Stream(self.stream, inputs, labels, data.classes, self.images, self.seed)

    def _learner(self, stream: Stream, way: Way, monitor: Monitor) -> Learner:
        shape, example = stream.inputs.shape[1:], stream.inputs[:2].to(self.device)
        widths = [max(LEAST, round(way.begins * width)) for width in self.widths]
        model = build(self.net, shape, stream.outputs, widths, self.activation).to(self.device)
        names = [axis.name for axis in trace(model, example).editable]
        return way.begin(
            Setting(
                model=model,
                optimizer=torch.optim.Adam(model.parameters(), self.learning_rate),
                example=example,
                widths=dict(zip(names, self.widths, strict=True)),
                per_task=self.steps,
                tasks=self.tasks,
                seed=self.seed,
                monitor=monitor,
            )
        )

    def _look(self, axes: AxisMap, task: Task, accuracy: float) -> dict[str, float]:
        found = probe(axes, task.inputs[:PROBE], task.labels[:PROBE], cross_entropy, samples=0)
        look = {
            **_over_axes(found),
            "weight magnitude": found.weight_magnitude,
            "units": float(sum(axis.size for axis in axes.editable)),
        }
        return {"online accuracy": accuracy, **look} if task.counts else look


def metrics(looks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of a run, from what was seen at the end of each task.

    `early` and `late` are the means over the first and the last quarter of the tasks that count, at least one each;
    `loss of plasticity` is early minus late, `half the loss` half of it. Other measures are means over the last
    quarter; dead units rise from the end of the first task to there. What was never measured is NaN.
    """
    accuracies = [look["online accuracy"] for look in looks if "online accuracy" in look]
    quarter = max(1, len(accuracies) // 4)
    early, late = _mean(accuracies[:quarter]), _mean(accuracies[-quarter:])
    ends = looks[-max(1, len(looks) // 4) :]
    return {
        "online accuracy": _mean(accuracies),
        "early accuracy": early,
        "late accuracy": late,
        "loss of plasticity": early - late,
        "half the loss": (early - late) / 2,
        "mean units": _mean([look["units"] for look in looks]),
        "rise of dead units": _mean(_known(ends, "dead")) - _mean(_known(looks[:1], "dead")),
        **{name: _mean(_known(ends, name)) for name in (*MEASURES, "units")},
    }


def _over_axes(found: Probe) -> dict[str, float]:
    """Shares of all units, and means of ranks over axes; nothing where activations cannot be followed (see `probe`)."""
    axes = found.axes.values()
    units = sum(axis.units for axis in axes)
    if not units:
        return {}
    return {
        "dead": sum(axis.units * axis.dead for axis in axes) / units,
        "dormant": sum(axis.units * axis.dormant for axis in axes) / units,
        "inactive": sum(axis.units * axis.inactive for axis in axes) / units,
        "effective rank": _mean([axis.effective_rank for axis in axes]),
        "relative rank": _mean([axis.effective_rank / axis.units for axis in axes]),
    }


def _known(looks: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [look[name] for look in looks if name in look]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan
