"""The recorder: statistics of ordinary training steps, each computed once and shared by all that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meristem.axes.map import AxisMap
from meristem.errors import CheckpointError, SignalError
from meristem.signals.batch import Batch
from meristem.signals.ear import Ear
from meristem.signals.listener import Listener
from meristem.signals.ranks import agree, distributed
from meristem.signals.sensor import Sensed, Sensor
from meristem.signals.statistic import Accumulator, Statistic


class Recorder:
    """Records statistics while training goes on.

        recorder = Recorder(axes, statistics)
        ...                                       # ordinary training steps
        recorder.closing()
        ...                                       # the last one
        signals = recorder.finish()

    The rule for every statistic: a step in several passes (gradient accumulation) gives what one pass over all its
    samples with the same loss would. Losses are taken as they are accumulated: n passes with `loss / n` each, or with
    the share of the samples that each has, are the mean over all. So what is linear in gradients is summed over passes,
    means are over all samples and positions of all calls and passes, and norms, squares and products with weights are
    taken of the sum. Of several steps the mean loss counts: gradients are averaged, and means are over everything.
    `Sensitivity` averages the squares of steps. Not covered: what looks at single passes, as BatchNorm itself does;
    what is searched for on a pass or read off the last one, where the statistic says so; and several calls of
    `backward` through one graph, where sizes of gradients of activations add up call by call: call it on the sum.

    Only passes that train are heard (see `Backward`): not an evaluation, not what `torch.autograd.grad` does.

    In a distributed run all ranks get the same results: what is additive is summed over ranks, everything else is that
    of rank 0 (see `Accumulator.parts`). Ranks then have to begin and finish at the same steps. A pass whose gradients
    are not finite, as happens where a `GradScaler` searches for its scale, is left out.

    Args:
        axes: the map of the model.
        statistics: what to record.
        scale: the factor by which the loss is multiplied before the backward pass (`GradScaler.get_scale`).
        steps: how many optimizer steps are recorded: gradients are those of the mean of their losses.
    """

    def __init__(
        self,
        axes: AxisMap,
        statistics: Iterable[Statistic],
        scale: Callable[[], float] | None = None,
        steps: int = 1,
    ) -> None:
        self._statistics = tuple(dict.fromkeys(statistics))
        self._axes = axes
        self._scale, self._steps = scale or _one, steps
        self._listener: Listener | None = None
        self._sensors = {s: s.sensor(axes) for s in self._statistics if isinstance(s, Sensed)}
        sensors = self._sensors.values()
        self._ear = Ear(axes, sensors, self._scale, steps, lambda: self._closing) if sensors else None
        self.restart()

    def restart(self) -> None:
        """Record again from nothing; cheaper than a new recorder. Only as long as the model is not edited."""
        self.cancel()
        for sensor in self._sensors.values():
            sensor.restart()
        others = {s: s.accumulator() for s in self._statistics if not isinstance(s, Sensed)}
        known: dict[Statistic, Accumulator] = {**self._sensors, **others}
        self._accumulators = {s: known[s] for s in self._statistics}
        self._closing = False
        self._silent = {s.axis for s in others}
        if self._silent:
            wanted = [self._axes.by_name[name] for name in sorted(self._silent)]
            self._listener = Listener(self._axes, wanted, self._receive, self._scale, self._steps)
        if self._ear is not None:
            self._ear.open()

    @property
    def complete(self) -> bool:
        """Whether every axis has been heard, in the closing step if that was announced; else `finish` would raise."""
        return not self._unheard()

    @property
    def overflowed(self) -> bool:
        """Whether gradients that are not finite were left out, as steps are that a `GradScaler` skips."""
        self._unheard()
        listened = self._listener is not None and self._listener.overflowed
        return listened or any(sensor.overflowed for sensor in self._sensors.values())

    def closing(self) -> None:
        """The step that begins is the last one."""
        if not self._closing:
            self._closing = True
            self._silent = {s.axis for s in self._statistics if s not in self._sensors}

    def finish(self) -> Mapping[Statistic, Any]:
        """Stop, and give the result of every statistic.

        Raises:
            SignalError: an axis was not heard: no gradient came back from what reads it; or weights that produce or
                read it work where they cannot be heard. In a distributed run all ranks raise if one has to.
        """
        self.cancel()
        problem = next(iter(self._problems().values()), None)
        if distributed():
            return agree(self._accumulators, problem, next(self._axes.model.parameters()).device)
        if problem is not None:
            raise SignalError(problem)
        return {statistic: accumulator.result() for statistic, accumulator in self._accumulators.items()}

    def heard(self) -> tuple[Mapping[Statistic, Any], Mapping[str, str]]:
        """Stop, and give what this rank alone has: the results of the axes that were heard, and by the names of the
        others why they were not.
        """
        self.cancel()
        problems = self._problems()
        found = {s: accumulator.result() for s, accumulator in self._accumulators.items() if s.axis not in problems}
        return found, problems

    def cancel(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()
        if self._ear is not None:
            self._ear.close()

    def memory(self) -> dict[str, Any] | None:
        """What has been recorded so far, between two steps, for `recall`: as JSON. None if nothing can be kept."""
        if any(accumulator.kept is None for accumulator in self._accumulators.values()):
            return None
        return {
            "silent": sorted(self._silent),
            "listener": None if self._listener is None else self._listener.memory(),
            "ear": None if self._ear is None else self._ear.memory(),
            "sums": [accumulator.memory() for accumulator in self._accumulators.values()],
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there; of the same statistics, before anything is heard.

        Raises:
            CheckpointError: it is malformed, or of other statistics.
        """
        if len(memory["sums"]) != len(self._accumulators):
            raise CheckpointError(
                f"{len(self._accumulators)} statistics are recorded, {len(memory['sums'])} were saved"
            )
        for accumulator, saved in zip(self._accumulators.values(), memory["sums"], strict=True):
            accumulator.recall(saved)
        self._silent = set(memory["silent"])
        for ear in (self._listener, self._ear):
            if ear is not None:
                ear.recall(memory["listener" if ear is self._listener else "ear"])

    def _unheard(self) -> set[str]:
        """The names of the axes of which no finite gradient has come."""
        sensed = {s.axis for s, sensor in self._sensors.items() if not sensor.heard(self._closing)}
        return self._silent | sensed

    def _hidden(self, name: str) -> frozenset[str]:
        """The weights of an axis that work where they cannot be heard."""
        listening = (ear for ear in (self._listener, self._ear) if ear is not None and ear.wants(name))
        return frozenset().union(*(ear.unheard(name) for ear in listening))

    def _problems(self) -> dict[str, str]:
        """By name of axis, why there are no results of it."""
        silent = self._unheard()
        heard = {s.axis for s in self._statistics} - silent
        hidden = {name: weights for name in heard if (weights := self._hidden(name))}
        if not silent and not hidden:
            return {}
        names = sorted(silent)
        return {
            **dict.fromkeys(names, _SILENT.format(", ".join(names))),
            **{name: _HIDDEN.format(", ".join(sorted(hidden[name]))) for name in sorted(hidden)},
        }

    def _receive(self, name: str, batch: Batch) -> None:
        self._silent.discard(name)
        for statistic, accumulator in self._accumulators.items():
            if statistic.axis == name and not isinstance(accumulator, Sensor):
                accumulator.add(batch, self._closing)


def _one() -> float:
    return 1.0


_SILENT = (
    "no finite gradient was seen at the weights that read {}. Statistics need a training step with loss.backward() "
    "between the calls of plasticity.step(); a forward pass that does not use them, reentrant activation checkpointing "
    "around them, a compiled model (call the original one in that step), or a step that runs another module than the "
    "traced one hides them"
)

_HIDDEN = (
    "{} got gradients through calls that were not heard, so statistics would be incomplete. Reentrant activation "
    "checkpointing (use_reentrant=False is heard), scripted modules, weights used outside of the traced model, and "
    "weights used otherwise than by linear maps and convolutions hide calls; leave these axes out with `axes=`"
)
