"""Hearing single training steps, by hooks that are there in these steps only."""

from __future__ import annotations

from collections.abc import Callable

from meristem.diagnose.numbers import Sample, Weights
from meristem.diagnose.watched import Watched
from meristem.errors import SignalError
from meristem.signals import Recorder
from meristem.signals.step_activity import StepActivity


class Hearing:
    """Measures the units of watched axes in single steps, again and again as long as the model is not edited.

    Args:
        watched: the axes.
        threshold: from where on a unit counts as active.
        scale: the factor by which the loss is multiplied before the backward pass; None for none.

    Attributes:
        open: whether there are hooks.
    """

    def __init__(self, watched: Watched, threshold: float, scale: Callable[[], float] | None) -> None:
        self._watched, self._threshold, self._scale = watched, threshold, scale
        self._recorder: Recorder | None = None
        self.open = False

    def listen(self) -> None:
        """Hear the next step. Raises `StaleMapError` if the model is no longer that of the map."""
        if self._recorder is None:
            self._watched.require_current()
            statistics = [StepActivity(name, self._threshold) for name in self._watched.names]
            self._recorder = Recorder(self._watched.axes, statistics, self._scale)
            others = self._watched.known[len(self._watched.names) :]
            self._weights = Weights(self._watched.axes, self._watched.names, others)
        elif not self.open:
            self._recorder.restart()
        self.open = True

    def taken(self, step: int) -> Sample | None:
        """What was heard, in this step; None if gradients were not finite.

        Raises:
            SignalError: no gradient was heard at all.
        """
        assert self._recorder is not None
        self.open = False
        results, silent = self._recorder.heard()
        if self._recorder.overflowed:
            return None
        if not results:
            raise SignalError(next(iter(silent.values())))
        found = self._weights.sample({statistic.axis: sums for statistic, sums in results.items()}, silent, step)
        return found if found.finite else None

    def close(self) -> None:
        """No hooks are left."""
        if self._recorder is not None:
            self._recorder.cancel()
        self._recorder, self.open = None, False
