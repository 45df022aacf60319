"""Continual Backprop: in every step a small share of the least useful units begins anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from meristem.allocate import Selection
from meristem.errors import ConfigError
from meristem.grow import Fresh
from meristem.plasticity import Plasticity
from meristem.prune import ContributionUtility, MeanKept, Protect
from meristem.recipes.turnover import turnover
from meristem.schedule import Every, Rate


def continual_backprop(
    model: nn.Module,
    optimizer: Any | Sequence[Any],
    example: Any,
    *,
    rate: float = 1e-4,
    maturity: int = 100,
    decay: float = 0.99,
    gain: float = math.sqrt(2),
    every: int = 1,
    keep_mean: bool = True,
    axes: Selection = None,
    **settings: Any,
) -> Plasticity:
    """Continual Backprop of Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood, Sutton, "Loss of plasticity in deep
    continual learning", Nature 632, 2024, 768-774, arXiv 2306.13812.

        plasticity = meristem.recipes.continual_backprop(model, optimizer, x)
        ...                                     # in the loop, as ever: plasticity.step()

    After every optimizer step `rate * (units older than maturity)` units of each axis are due; what is less than one is
    added up. Those with the lowest contribution utility die. Newborns in their places read at random, nothing reads
    them, and their optimizer state is zero with step counts of their own. What the dead gave on average moves into the
    biases of their readers. The output layer is never touched: its axis is frozen.

    It is made of `Every(1, replace=Rate(rate)).after(steps=maturity + 1)`, `Protect(MeanKept(ContributionUtility()))`,
    `Fresh` and `StepCounts`, and may be made of others. Measuring every step costs some milliseconds, which small nets
    notice: `every=10` measures and replaces in one step of ten, at the same rate per step.

    Other than in the published code: the mean contribution really moves (there it is zeroed first); Adam's entries of
    replaced units start anew in every layer, convolutions too; utilities add up over readers instead of being averaged.

    Args:
        model, optimizer, example: as for `Plasticity`.
        rate: share of the mature units that is replaced per step. Paper: 1e-4 on permuted MNIST (default), 3e-4 on
            Continual ImageNet, 1e-5 on incremental CIFAR-100.
        maturity: optimizer steps during which a newborn, and every unit at first, is protected. Paper: 100 (default),
            1000 on incremental CIFAR-100.
        decay: of the utility and of the means. Paper: 0.99 (default).
        gain: of newborns' fan-in, see `Fresh`. Default: that for ReLU.
        every: optimizer steps from one measurement, and replacement, to the next. Rate and decay are per step all the
            same. Paper: 1 (default).
        keep_mean: whether the mean contribution of the dead moves into biases; False for readers without any.
        axes: which axes; default: all editable ones without couplings whose readers can be heard, and shifted.
        settings: everything else that `Plasticity` takes.

    Raises:
        ConfigError, EditError, UnknownAxisError, FrozenAxisError, TraceError: as `Plasticity`.
    """
    if maturity < 0:
        raise ConfigError(f"continual_backprop: maturity is a number of steps of at least 0, got {maturity!r}")
    remembered = decay**every
    utility = ContributionUtility(remembered, every)
    criterion = MeanKept(utility, decay=remembered, every=every) if keep_mean else utility
    return turnover(
        model,
        optimizer,
        example,
        schedule=Every(every, replace=Rate(rate * every)).after(steps=maturity + 1),
        grow=Fresh(gain),
        prune=Protect(criterion, age=maturity + 1),
        axes=axes,
        settings=settings,
    )
