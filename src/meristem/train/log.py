"""What the loop tells: time, operations, losses, edits and evaluations, written down as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from meristem.axes import AxisMap
from meristem.train.config import TrainConfig
from meristem.train.meter import FlopMeter
from meristem.train.record import Change, Evaluation, Run, RunFolder


class Log:
    """Collects one run and writes it to its folder."""

    def __init__(self, config: TrainConfig, place: RunFolder) -> None:
        self._config = config
        self._place = place
        self._meter = FlopMeter()
        self._seconds = 0.0
        self._losses: list[float] = []
        self._evaluations: list[Evaluation] = []
        self._changes: list[Change] = []

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Wraps one training step, to be timed."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    def counting(self, examples: int) -> AbstractContextManager[None]:
        """Wraps the forward and backward pass of one training step, whose operations are counted."""
        return self._meter.step(examples)

    def loss(self, loss: float) -> None:
        """Notes the loss of a step."""
        self._losses.append(loss)

    def changed(self, change: Change) -> None:
        """Notes an edit."""
        self._changes.append(change)
        self._meter.structure_changed()

    def evaluated(self, step: int, accuracy: float, axes: AxisMap) -> None:
        """Notes an evaluation."""
        evaluation = Evaluation(
            step=step,
            loss=sum(self._losses) / len(self._losses),
            accuracy=accuracy,
            parameters=axes.parameter_count(),
            flops=self._meter.total,
            seconds=self._seconds,
            sizes={axis.name: axis.size for axis in axes.editable},
        )
        self._losses.clear()
        self._evaluations.append(evaluation)
        self._place.append(evaluation)

    def finish(self, axes: AxisMap) -> Run:
        """The whole run; from now on its folder counts as finished."""
        run = Run(self._config.name, self._config.seed, tuple(self._evaluations), tuple(self._changes))
        self._place.finish(run, axes.history)
        return run
