"""ReDo: units that have gone dormant begin anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from meristem.allocate import Selection
from meristem.grow import Fresh
from meristem.plasticity import Plasticity
from meristem.prune import Dormancy
from meristem.recipes.turnover import at_most, turnover
from meristem.schedule import Every


def redo(
    model: nn.Module,
    optimizer: Any | Sequence[Any],
    example: Any,
    *,
    tau: float = 0.025,
    every: int = 1000,
    gain: float = math.sqrt(1 / 3),
    axes: Selection = None,
    **settings: Any,
) -> Plasticity:
    """ReDo of Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    arXiv 2302.12902.

    Every so many optimizer steps all units whose mean activation is at most `tau` times the mean of their axis begin
    anew: they read at random, nothing reads them, and their optimizer state is zero with step counts of their own (the
    paper's code keeps Adam's counts; later code found a reset of the count to matter, and resets it for whole tensors).
    Biases of the readers stay. The output layer is never touched: its axis is frozen.

    It is made of `Every(every, replace=Below(tau))`, `Dormancy`, `Fresh` and `StepCounts`.

    Args:
        model, optimizer, example: as for `Plasticity`.
        tau: the threshold. Paper: 0.025 (default), 0.1; 0 for units that are never active.
        every: optimizer steps from one replacement to the next. Paper: 1000 (default).
        gain: of newborns' fan-in, see `Fresh`. Default: that with which PyTorch's layers begin.
        axes: which axes; default: all editable ones without couplings whose readers can be heard.
        settings: everything else that `Plasticity` takes; with `listen=10` activity is that of ten steps, not one.

    Raises:
        ConfigError: `tau` is below 0; or as `Plasticity`.
        EditError, UnknownAxisError, FrozenAxisError, TraceError: as `Plasticity`.
    """
    return turnover(
        model,
        optimizer,
        example,
        schedule=Every(every, replace=at_most("redo", tau)),
        grow=Fresh(gain),
        prune=Dormancy(),
        axes=axes,
        settings=settings,
    )
