"""Mean losses over windows of steps."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import Tensor

from meristem.errors import ConfigError
from meristem.schedule.schedule import Moment, State

log = logging.getLogger("meristem.schedule")

EMPTY_WINDOW: dict[str, Any] = {"steps": 0, "readings": 0, "sum": 0.0}
"""The part of a schedule's state that holds a window: steps, losses given in them, and their sum."""


def with_loss(moment: Moment, state: State) -> State:
    """The state after one more step. Losses are summed where they are, in float64: a GPU is not made to wait."""
    if moment.loss is None:
        return {**state, "steps": state["steps"] + 1}
    counts = {"steps": state["steps"] + 1, "readings": state["readings"] + 1}
    return {**state, **counts, "sum": _number(moment.loss) + state["sum"]}


def mean_loss(state: State, watcher: str) -> float:
    """The mean loss of a full window; where it is not finite, the log warns.

    Raises:
        ConfigError: no loss was given.
    """
    if not state["readings"]:
        raise ConfigError(
            f"{watcher} watches the loss, but none was given in {state['steps']} steps; call plasticity.step(loss)"
        )
    mean = float(state["sum"]) / state["readings"]
    if not math.isfinite(mean):
        log.warning("%s: the mean loss of %d steps is %s; training has diverged", watcher, state["steps"], mean)
    return mean


def _number(loss: Tensor | float) -> Tensor | float:
    """A loss in double precision, without waiting for a device that is not the CPU."""
    if not isinstance(loss, Tensor):
        return float(loss)
    if loss.numel() != 1:
        raise ConfigError(
            f"plasticity.step(loss) expects one number, got a tensor of shape {tuple(loss.shape)}; pass its mean"
        )
    return loss.item() if loss.is_cpu else loss.detach().reshape(()).double()
