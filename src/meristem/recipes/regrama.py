"""ReGraMa: units that gradients hardly reach begin anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from meristem.allocate import Selection
from meristem.grow import Fresh
from meristem.plasticity import Plasticity
from meristem.prune import GradientDormancy
from meristem.recipes.turnover import at_most, turnover
from meristem.schedule import Every


def regrama(
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
    """After ReGraMa of Liu, Wu, Obando-Ceron, Castro, Courville, Pan, "Measure gradients, not activations! Enhancing
    neuronal activity in deep reinforcement learning", NeurIPS 2025, arXiv 2505.24061.

    As `redo`, which see, but units begin anew whose activations get a gradient of at most `tau` times the mean of their
    axis: `E|dL/dh_j| <= tau * mean_k E|dL/dh_k|`. Only the abstract of the paper was at hand: this score, its threshold
    and its period are derived by analogy with ReDo, not the authors'.

    It is made of `Every(every, replace=Below(tau))`, `GradientDormancy`, `Fresh` and `StepCounts`.

    Args:
        model, optimizer, example: as for `Plasticity`.
        tau: the threshold. Default 0.025.
        every: optimizer steps from one replacement to the next. Default 1000.
        gain: of newborns' fan-in, see `Fresh`. Default: that with which PyTorch's layers begin.
        axes: which axes; default: all editable ones without couplings whose readers can be heard.
        settings: everything else that `Plasticity` takes.

    Raises:
        ConfigError: `tau` is below 0; or as `Plasticity`.
        EditError, UnknownAxisError, FrozenAxisError, TraceError: as `Plasticity`.
    """
    return turnover(
        model,
        optimizer,
        example,
        schedule=Every(every, replace=at_most("regrama", tau)),
        grow=Fresh(gain),
        prune=GradientDormancy(),
        axes=axes,
        settings=settings,
    )
