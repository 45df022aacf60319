"""When to record which statistics: a recorder listens to the last steps before an edit, and to no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from meristem.axes.map import AxisMap
from meristem.errors import CheckpointError
from meristem.signals import Statistic
from meristem.signals.direct import Recording
from meristem.signals.ranks import distributed


@dataclass(frozen=True)
class Target:
    """What will be wanted, and when.

    Attributes:
        step: the optimizer step after which the statistics are wanted; `inf` for never.
        statistics: which.
    """

    step: float = inf
    statistics: tuple[Statistic, ...] = ()


class Listening:
    """At most one recorder, open during the last steps before a target.

    Args:
        length: over how many optimizer steps statistics are added up.
        scale: gives the factor by which the loss is multiplied before the backward pass; None for none.
    """

    def __init__(self, length: int, scale: Callable[[], float] | None) -> None:
        self._length = length
        self._scale = scale
        self._target = Target()
        self._recorder: Recording | None = None
        self._steps = length
        self._saved: Mapping[str, Any] | None = None

    @property
    def target(self) -> Target:
        """What is being recorded, or will be."""
        return self._target

    def wake(self, step: int) -> float:
        """The next step after which `advance` has something to do."""
        end = self._target.step
        soon = step + 1 if end - self._length <= step < end else end - self._length
        return min((at for at in (soon, end - 1, end) if at > step), default=inf)

    def aim(self, target: Target) -> None:
        """Record for this target and no other. What has been recorded for an equal one is kept."""
        if target != self._target:
            self._close()
            self._target = target if target.statistics else Target()

    def advance(self, step: int, axes: AxisMap) -> None:
        """What is due after this step: tell the recorder that it is over, open it, or announce the last step to it."""
        if self._recorder is not None:
            self._recorder.stepped()
        if self._recorder is None and step >= self._target.step - self._length:
            self._open(step, axes)
        if self._recorder is not None and step >= self._target.step - 1:
            self._recorder.closing()

    def results(self, step: int) -> Mapping[Statistic, Any]:
        """The statistics, if this is the step for which they were recorded; else nothing.

        Nothing too if gradients overflowed in the last step, which a `GradScaler` skips: then they are recorded anew.
        """
        if self._recorder is None or step != self._target.step:
            return {}
        if self._recorder.overflowed and not self._recorder.complete:
            self.cancel()
            return {}
        recorder, self._recorder, self._target = self._recorder, None, Target()
        return recorder.finish()

    def cancel(self) -> None:
        """Stop and forget."""
        self._close()
        self._saved = None

    def memory(self) -> dict[str, Any] | None:
        """What has been recorded so far, for `resume`: as JSON. None if nothing has been, or it cannot be kept.

        In a distributed run every rank has recorded its own batches, and one state is saved for all: it is not kept.
        """
        heard = None if self._recorder is None or self._length == 1 or distributed() else self._recorder.memory()
        return None if heard is None else {**self._wanted(), "steps": self._steps, "recording": heard}

    def resume(self, memory: Mapping[str, Any] | None) -> None:
        """Go on from there when the recorder is opened for the same target; for another one it begins anew."""
        self.cancel()
        self._saved = memory

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.cancel()
        self._recorder, self._target = None, Target()

    def _open(self, step: int, axes: AxisMap) -> None:
        saved, self._saved = self._saved, None
        known = saved is not None and all(saved.get(key) == value for key, value in self._wanted().items())
        self._steps = int(saved["steps"]) if saved is not None and known else max(1, int(self._target.step) - step)
        self._recorder = Recording(axes, self._target.statistics, self._scale, steps=self._steps)
        if saved is not None and known:
            self._recall(self._recorder, saved)

    def _recall(self, recorder: Recording, saved: Mapping[str, Any]) -> None:
        try:
            recorder.recall(saved["recording"])
        except (KeyError, TypeError, AttributeError, CheckpointError) as error:
            self.cancel()
            raise CheckpointError(
                f"what the state holds of statistics that were being recorded is malformed: {error}. The structure has "
                "been loaded; without its entry 'listening' the state can be, and these statistics begin anew"
            ) from error

    def _wanted(self) -> dict[str, Any]:
        """The target, in words and numbers."""
        return {"target": self._target.step, "statistics": [repr(statistic) for statistic in self._target.statistics]}


def earliest(targets: Sequence[Target]) -> Target:
    """The targets of the first step among them, as one."""
    first = min((target.step for target in targets), default=inf)
    statistics = [s for target in targets if target.step == first for s in target.statistics]
    return Target(first, tuple(dict.fromkeys(statistics)))
