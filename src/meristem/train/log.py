"""What a loop tells: time, operations, losses, edits and evaluations, written down as they come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.train.memory import Memory
from meristem.train.meter import FlopMeter
from meristem.train.record import Change, Costs, Evaluation, Run, RunFolder

SAMPLES = 30
"""How often newborns are looked at in a run, about; edits are followed by looks of their own."""


class Log:
    """Collects one run of any kind and writes it to its folder.

        log = Log(place)
        for step, (x, y) in enumerate(batches, start=1):
            with log.timing():
                with log.counting(len(y)):
                    loss = loss_fn(model(x), y)
                    loss.backward()
                optimizer.step()
                ...
            log.loss(loss.item())
            if step in due:
                log.evaluated(step, {"accuracy": accuracy}, axes)
        return log.finish(seed, {"final accuracy": accuracy}, axes)

    Args:
        place: the folder of the run; None: nothing is written.
        device: where the net trains, for the memory.
    """

    def __init__(self, place: RunFolder | None = None, device: torch.device | str = "cpu") -> None:
        self._place = place
        self._memory = Memory(device)
        self._meter = FlopMeter()
        self._seconds = self._edit_seconds = self._edit_flops = 0.0
        self._losses: list[float] = []
        self._evaluations: list[Evaluation] = []
        self._changes: list[Change] = []
        self._monitor: Monitor | None = None

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Wraps one training step with everything that belongs to it, to be timed."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    def counting(self, examples: int, anew: bool = False) -> AbstractContextManager[None]:
        """Wraps the forward and backward pass of one training step, whose operations are counted.

        Args:
            examples: in this step.
            anew: this step costs other than those before it, though no edit was told: statistics are recorded in it.
        """
        if anew:
            self._meter.structure_changed()
        return self._meter.step(examples)

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Wraps an edit within `timing()`: the operations of passes that it makes by itself, and its time."""
        started = time.perf_counter()
        with FlopCounterMode(display=False) as counter:
            yield
        self._edit_seconds += time.perf_counter() - started
        self._edit_flops += counter.get_total_flops()
        self._meter.structure_changed()

    def monitor(self, steps: int) -> Monitor:
        """Watches newborns beside incumbents, for figures: a few dozen samples of a run of so many optimizer steps. It
        is to be given to what edits the net; what it has seen goes into the run."""
        self._monitor = Monitor(max(1, steps // SAMPLES), cohorts=1, keep=2 * SAMPLES)
        return self._monitor

    def loss(self, loss: float) -> None:
        """Notes the loss of a step; evaluations get the mean of those since the last one."""
        self._losses.append(loss)

    def changed(self, step: int, births: Mapping[str, int], deaths: Mapping[str, int]) -> None:
        """Notes an edit, by axis."""
        self._changes.append(Change(step, dict(births), dict(deaths)))
        self._meter.structure_changed()

    def evaluated(
        self,
        step: int,
        values: Mapping[str, float],
        axes: AxisMap | None = None,
        parameters: int = 0,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Notes a look at the net, and writes it down.

        Args:
            step: optimizer steps taken.
            values: what was measured; the mean training loss is added as `loss` if losses were noted.
            axes: today's map: parameters and sizes are taken from it.
            parameters, sizes: without a map.
        """
        measured = dict(values)
        if self._losses and "loss" not in measured:
            measured["loss"] = sum(self._losses) / len(self._losses)
        self._losses.clear()
        evaluation = Evaluation(
            step=step,
            values=measured,
            parameters=axes.parameter_count() if axes else parameters,
            flops=self.flops,
            seconds=self._seconds,
            sizes={axis.name: axis.size for axis in axes.editable} if axes else dict(sizes or {}),
        )
        self._evaluations.append(evaluation)
        if self._place is not None:
            self._place.append(evaluation)

    @property
    def flops(self) -> float:
        """Floating-point operations so far, those of edits included."""
        return self._meter.total + self._edit_flops

    def finish(
        self,
        seed: int,
        metrics: Mapping[str, float],
        axes: AxisMap | None = None,
        records: Iterable[Mapping[str, Any]] = (),
    ) -> Run:
        """The whole run. The history of a map goes to `history.json`. Default records: those of `monitor`."""
        seen = () if self._monitor is None else self._monitor.records
        if axes is not None and self._place is not None:
            self._place.history(axes.history)
        found = tuple(records) or tuple(record.plain() for record in seen)
        costs = Costs(self.flops, self._edit_flops, self._seconds, self._edit_seconds, self._memory.peak())
        return Run(seed, dict(metrics), tuple(self._evaluations), tuple(self._changes), costs, found)

    def mean(self, name: str) -> float:
        """A value averaged over all evaluations so far that measured it. Raises `ZeroDivisionError` if none did."""
        values = [e.values[name] for e in self._evaluations if name in e.values]
        return sum(values) / len(values)
