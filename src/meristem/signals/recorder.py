"""The recorder: statistics of ordinary training steps, each computed once and shared by all that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meristem.axes.map import AxisMap
from meristem.errors import SignalError
from meristem.signals.batch import Batch
from meristem.signals.listener import Listener
from meristem.signals.ranks import agree, distributed
from meristem.signals.statistic import Accumulator, Statistic


class Recorder:
    """Records statistics while training goes on.

        recorder = Recorder(axes, statistics)
        ...                                       # ordinary training steps
        recorder.closing()
        ...                                       # the last one
        signals = recorder.finish()

    Everything a forward and backward pass gives is added up: with gradient accumulation all passes of a step, with
    several steps all of them. Passes without gradients (an evaluation) are not heard.

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
        self._accumulators: dict[Statistic, Accumulator] = {s: s.accumulator() for s in dict.fromkeys(statistics)}
        self._axes = axes
        self._closing = False
        self._silent = {s.axis for s in self._accumulators}
        wanted = [axes.by_name[name] for name in sorted(self._silent)]
        backwards = {s.axis for s in self._accumulators if s.backwards}
        self._listener = Listener(axes, wanted, self._receive, scale, steps, backwards)

    @property
    def complete(self) -> bool:
        """Whether every axis has been heard, in the closing step if that was announced; else `finish` would raise."""
        return not self._silent

    @property
    def overflowed(self) -> bool:
        """Whether gradients that are not finite were left out, as steps are that a `GradScaler` skips."""
        return self._listener.overflowed

    def closing(self) -> None:
        """The step that begins is the last one."""
        if not self._closing:
            self._closing = True
            self._silent = {s.axis for s in self._accumulators}

    def finish(self) -> Mapping[Statistic, Any]:
        """Stop, and give the result of every statistic.

        Raises:
            SignalError: an axis was not heard: no gradient came back from what reads it; or weights that produce or
                read it work where they cannot be heard. In a distributed run all ranks raise if one has to.
        """
        self.cancel()
        problem = self._problem()
        if distributed():
            return agree(self._accumulators, problem, next(self._axes.model.parameters()).device)
        if problem is not None:
            raise SignalError(problem)
        return {statistic: accumulator.result() for statistic, accumulator in self._accumulators.items()}

    def cancel(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _problem(self) -> str | None:
        if self._silent:
            return (
                f"no finite gradient was seen at the weights that read {', '.join(sorted(self._silent))}. Statistics "
                "need a training step with loss.backward() between the calls of plasticity.step(); a forward pass that "
                "does not use them, reentrant activation checkpointing around them, or a step that runs another module "
                "than the traced one hides them"
            )
        axes = {statistic.axis for statistic in self._accumulators}
        hidden = sorted({weight for name in axes for weight in self._listener.unheard(name)})
        if hidden:
            return (
                f"{', '.join(hidden)} got gradients, but no call that uses them was heard, so statistics would be "
                "incomplete. Reentrant activation checkpointing (use_reentrant=False is heard), fused modules such as "
                "nn.MultiheadAttention, and weights used outside of the traced model hide calls; leave these axes out "
                "with `axes=`"
            )
        return None

    def _receive(self, name: str, batch: Batch) -> None:
        self._silent.discard(name)
        for statistic, accumulator in self._accumulators.items():
            if statistic.axis == name:
                accumulator.add(batch, self._closing)
