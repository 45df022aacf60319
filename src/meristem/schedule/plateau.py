"""OnPlateau: when the loss has stopped falling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meristem.errors import ConfigError
from meristem.schedule.amounts import Asking
from meristem.schedule.demand import Demand
from meristem.schedule.schedule import Moment, State
from meristem.schedule.window import EMPTY_WINDOW, mean_loss, with_loss


@dataclass(frozen=True)
class OnPlateau(Asking):
    """When the mean loss of a window of steps has not improved for several windows.

    A window improves if its mean is below `best - threshold * |best|`. After `patience` windows in a row without an
    improvement the schedule is due, and then starts afresh. Losses are summed where they are, in float64; a GPU is made
    to wait once per window, not at every step. A window whose mean is not finite says nothing, and is reported to the
    log: a diverged net is no stalled one.

    Attributes:
        patience: number of windows without improvement.
        window: optimizer steps in a window.
        threshold: relative improvement that counts.
        cooldown: windows that are ignored after an edit.
        grow, prune, replace, exchange, shorten, deepen: how much, see `Amount`.

    Raises:
        ConfigError: a whole window has passed and `plasticity.step` was never given a loss.
    """

    patience: int = 5
    window: int = 100
    threshold: float = 1e-3
    cooldown: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("patience", 1), ("window", 1), ("threshold", 0), ("cooldown", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"OnPlateau({name}=...) must be at least {least}, got {getattr(self, name)!r}")

    def initial(self) -> State:
        return {**EMPTY_WINDOW, "best": None, "stalled": 0, "cooling": 0}

    def due(self, moment: Moment, state: State) -> tuple[tuple[Demand, ...], State]:
        state = with_loss(moment, state)
        if state["steps"] < self.window:
            return (), state
        state = self._judged(mean_loss(state, "OnPlateau"), state)
        if state["stalled"] < self.patience:
            return (), state
        return self.demands(moment.step), {**self.initial(), "cooling": self.cooldown}

    def _judged(self, mean: float, state: State) -> State:
        """The state after a full window with this mean loss."""
        fresh = {**state, **EMPTY_WINDOW}
        if state["cooling"]:
            return {**fresh, "cooling": state["cooling"] - 1}
        if not math.isfinite(mean):
            return fresh
        best = state["best"]
        if best is None or mean < best - self.threshold * abs(best):
            return {**fresh, "best": mean, "stalled": 0}
        return {**fresh, "stalled": state["stalled"] + 1}
