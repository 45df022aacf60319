"""Candidates: more newborns than wanted are tried, and the best are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Change, Explicit, trial
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.closure import require_closure, reseeded, seed_of
from meristem.grow.parts.zero_side import grown, likewise, no_zero_side, tables, zero_entries
from meristem.grow.zero_fan_out import ZeroFanOut
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class Candidates(Method):
    """Overgrow, score by the first-order gain, keep the best: for any editable axis whose units are read by weights, or
    multiplied by others.

    `factor * count` newborns of another method are put in place for one evaluation of the loss and its gradient. The
    score of a candidate is the sum of the squared gradients of all its weights that are zero at birth: the decrease of
    the loss per unit of learning rate in the first step of gradient descent, since the others have gradient zero. With
    newborns that read at random and that nothing reads yet these are the weights that read it, or (for the queries of a
    head) the keys that they are multiplied by. It is the objective of
    Evci et al., "GradMax", ICLR 2022, arXiv 2201.05125, equation 5, maximised over a random sample instead of in closed
    form: for heads, gated units, streams, concatenations, groups, recurrent units, any normalization.

    Attributes:
        base: makes the candidates; must leave one side of them zero and incumbents alone.
        factor: how many candidates for each newborn that is asked for (default 4).

    Preserved: what the base preserves. Predicted gain of a newborn: its score.
    Fails: as far as the axis has couplings, candidates disturb one another (they are all in place at once), and scores
    are approximate. One batch is noisy: let the closure run a large one. A frozen weight among others counts as
    gradient zero.

    Raises:
        ConfigError: the factor is below 1; or no closure was given (when it proposes).
        EditError: (when it proposes) no weight of the base's newborns is zero at birth, or it changes incumbents.
        SignalError: (when it proposes) the loss or its gradient is not finite.
    """

    requires_closure: ClassVar[bool] = True
    gains_per_rate: ClassVar[bool] = True

    base: Method = field(default_factory=ZeroFanOut)
    factor: int = 4

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ConfigError(f"Candidates(factor=...) must be at least 1, got {self.factor!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_zero_side(self.base, axes, axis)

    def zero_side(self) -> Role | None:
        return self.base.zero_side()

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return self.base.needs(axes, axis, self.factor * count)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = _tried(view, axis, self.base, self.factor * count, count)
        best = found.scores.argsort(descending=True, stable=True)[:count]
        values = {place: table[best] for place, table in found.values.items()}
        start = likewise(found.plan, Explicit(repr(self), values, found.plan.inexact))
        gains = tuple(found.scores[best].tolist())
        note = None if len(best) == count else f"{axis.name}: {len(best)} of {count}; {found.plan.note}"
        return Growth(axis, grown(axis, len(best)), start, gains, note)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        return _tried(view, axis, self.base, self.factor * count, count).scores.sort(descending=True).values[:count]


@dataclass(frozen=True, eq=False)
class _Tried:
    """What came of candidates: scores, float64, shape (candidates,); their tables; the base's plan."""

    scores: Tensor
    values: Mapping[tuple[str, int], Tensor]
    plan: Growth


def _tried(view: View, axis: Axis, base: Method, count: int, kept: int) -> _Tried:
    require_closure(view)
    view = reseeded(view, axis)
    plan = base.propose(view, axis, count)
    if not plan.births:
        return _Tried(torch.zeros(0, dtype=torch.float64), {}, plan)
    with trial(view.axes, [Change(axis, plan.gather, plan.start)], seed_of(view, axis)) as tried:
        zeros = zero_entries(view, plan, tried, kept)
        values = tables(view, plan)
        scores = zeros.squared_gradients(zeros.gradients(view))
    return _Tried(scores.detach().double().cpu(), values, plan)
