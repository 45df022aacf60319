"""What recipes have in common that replace units at a constant size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from meristem.allocate import Selection
from meristem.axes import Axis, AxisMap, trace
from meristem.errors import ConfigError
from meristem.grow import Method
from meristem.integrate import StepCounts
from meristem.plasticity import Plasticity
from meristem.prune import Criterion
from meristem.schedule import Below, Schedule


def at_most(recipe: str, tau: float) -> Below:
    """All units that score at most a threshold. Raises `ConfigError` if no score can be so low."""
    if not tau >= 0:
        raise ConfigError(f"{recipe}(tau=...) is a share of the mean of an axis, at least 0; got {tau!r}")
    return Below(tau)


def turnover(
    model: nn.Module,
    optimizer: Any | Sequence[Any],
    example: Any,
    *,
    schedule: Schedule,
    grow: Method,
    prune: Criterion,
    axes: Selection,
    settings: dict[str, Any],
) -> Plasticity:
    """A controller that replaces units, whose newborns' optimizer state starts from zero with step counts of their own.

    Args:
        model, optimizer, example: as for `Plasticity`.
        schedule: when units are replaced, and how many.
        grow: what takes their places.
        prune: who dies.
        axes: as for `Plasticity`; None for every editable axis without couplings for which the criterion is defined.
        settings: everything else that `Plasticity` takes; `integrate` among it replaces the step counts.
    """
    found = example if isinstance(example, AxisMap) else trace(model, example)

    def free(axis: Axis) -> bool:
        return not axis.couplings and prune.undefined(found, axis) is None

    settings = {"integrate": StepCounts(), **settings}
    return Plasticity(
        model,
        optimizer,
        found,
        schedule=schedule,
        grow=grow,
        prune=prune,
        axes=free if axes is None else axes,
        **settings,
    )
