"""OnConvergence: whenever training has converged, until growing no longer helps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from meristem.errors import ConfigError
from meristem.schedule.amounts import Asking
from meristem.schedule.demand import Demand
from meristem.schedule.schedule import Moment, State
from meristem.schedule.window import EMPTY_WINDOW, mean_loss, with_loss


@dataclass(frozen=True)
class OnConvergence(Asking):
    """When a metric gained less than a threshold since the last check; never again when an edit brought less than that.

    The convergent driver of AutoGrow: Wen, Yan, Chen, Li, "AutoGrow", KDD 2020, arXiv 1906.02909, algorithm 1. At every
    check the gain of the metric since the check before is judged:

        gain >= threshold                              not converged: wait for the next check
        gain < threshold, no edit at the last check    converged: edit
        gain < threshold, an edit at the last check    that edit did not help: stop for good

    The authors check every 100 epochs with a threshold of 0.05 percentage points of a moving average of the accuracy.
    Their periodic driver is `Every`; they found that fast periodic growth beats waiting for convergence.

    Attributes:
        interval: optimizer steps from one check to the next.
        threshold: the gain that counts, in the unit of the metric.
        metric: gives the metric at a check; larger is better, and a value that is not finite counts as no gain. Must
            give the same on all ranks. Default: the negative mean loss of the steps since the last check.
        grow, prune, replace, exchange, shorten, deepen: how much, see `Amount`.

    Raises:
        ConfigError: nothing else is watched, and `plasticity.step` was not given a loss for a whole interval.

    Fails: a noisy metric gains or loses a threshold by chance, and one unlucky check after an edit stops growth; smooth
    the metric, or make the interval longer.
    """

    interval: int
    threshold: float
    metric: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.interval >= 1:
            raise ConfigError(f"OnConvergence(interval=...) must be at least 1, got {self.interval!r}")
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ConfigError(f"OnConvergence(threshold=...) must be a number >= 0, got {self.threshold!r}")

    def initial(self) -> State:
        return {**EMPTY_WINDOW, "last": None, "edited": False, "stopped": False}

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        if state["stopped"]:
            return (), state
        state = with_loss(moment, state)
        if state["steps"] < self.interval:
            return (), state
        value = self._value(state)
        last, edited = state["last"], state["edited"]
        state = {**state, **EMPTY_WINDOW, "last": value if math.isfinite(value) else last, "edited": False}
        if last is None or value - last >= self.threshold:
            return (), state
        if edited:
            return (), {**state, "stopped": True}
        return self.demands(moment.step), {**state, "edited": True}

    def _value(self, state: State) -> float:
        return -mean_loss(state, "OnConvergence") if self.metric is None else float(self.metric())
