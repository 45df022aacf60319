"""What a run is recorded by: time, operations with those of edits, losses, edits and evaluations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.flop_counter import FlopCounterMode

from meristem.axes import AxisMap
from meristem.plasticity import Event
from meristem.train.meter import FlopMeter
from meristem.train.record import Change, Evaluation, Run


class Tally:
    """Collects one run.

    Attributes:
        losses: of the steps since the last evaluation.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._meter, self._seconds = FlopMeter(), 0.0
        self._evaluations: list[Evaluation] = []
        self._changes: list[Change] = []

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Wraps one training step with what comes of it."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    @contextmanager
    def step(self, examples: int, anew: bool) -> Iterator[None]:
        """Wraps a forward and backward pass; counted `anew` where statistics are recorded on the way."""
        if anew:
            self._meter.structure_changed()
        with self._meter.step(examples):
            yield

    @contextmanager
    def edit(self) -> Iterator[None]:
        """Wraps an edit: passes that a method makes itself count too (matrix decompositions are not counted)."""
        with FlopCounterMode(display=False) as counter:
            yield
        self._meter.total += counter.get_total_flops()
        self._meter.structure_changed()

    def changed(self, step: int, event: Event) -> None:
        """Notes an edit."""
        self._changes.append(Change(step, dict(event.births), dict(event.deaths)))
        self._meter.structure_changed()

    def evaluated(self, step: int, accuracy: float, axes: AxisMap) -> None:
        """Notes an evaluation."""
        loss, sizes = sum(self.losses) / len(self.losses), {axis.name: axis.size for axis in axes.editable}
        self.losses.clear()
        self._evaluations.append(
            Evaluation(step, loss, accuracy, axes.parameter_count(), self._meter.total, self._seconds, sizes)
        )

    def run(self, name: str, seed: int) -> Run:
        """The whole run."""
        return Run(name, seed, tuple(self._evaluations), tuple(self._changes))
