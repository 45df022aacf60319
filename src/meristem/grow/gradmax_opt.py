"""GradMaxOpt: what GradMax finds in closed form, found by gradient ascent, for any activation and normalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Change, Explicit, Trial, trial
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.closure import placed, require_closure, reseeded, seed_of
from meristem.grow.parts.gathered import key, places, wide
from meristem.grow.parts.zero_side import ZeroEntries, grown, likewise, no_zero_side, tables, zero_entries
from meristem.grow.zero_fan_out import ZeroFanOut
from meristem.signals import Statistic, View
from meristem.signals.finite import require_finite


@dataclass(frozen=True)
class GradMaxOpt(Method):
    """The non-zero side of newborns is trained so that the gradient of their zero side becomes as large as it can.

    Evci, van Merrienboer, Unterthiner, Vladymyrov, Pedregosa, "GradMax", ICLR 2022, arXiv 2201.05125, section 4 and the
    published code ("GradMax-Opt"): Adam on `sum |dL/dW_zero|^2` by a second backward pass. After each step newborns get
    back the norms with which the base made them and, as in equation 6, orthogonal directions (the polar factor; without
    it all would become the one best direction). Where there are more newborns than entries the directions are as
    orthogonal as they can be.

    With the default base the fan-in of newborns is trained and their fan-out zero: the function is preserved, and
    BatchNorm and activation functions of every kind are seen as they are. With `Random(fan_in=0, fan_out=0.5)` it is
    the fan-out, as for `GradMax`, whose closed form is then the upper bound at linear and ReLU layers.

    Attributes:
        base: makes the newborns; must leave one side of them zero and incumbents alone.
        steps: of Adam, each of which evaluates the loss once (default 100, as published).
        learning_rate: of Adam, in units of the root mean square of the trained weights (default 0.03).

    Newborns that get no gradient at all, behind ReLU off on every sample, are left out: a note says how many are given.

    Preserved: what the base preserves. Predicted gain of a newborn: its squared gradient norm, the decrease of the loss
    per unit of learning rate, on the last batch.
    Fails: operators without a second derivative; behind ReLU only samples that switch a newborn on are seen; a local
    maximum.

    Raises:
        ConfigError: a setting is out of its range; or no closure was given (when it proposes).
        EditError: (when it proposes) no weight of the base's newborns is zero at birth, or it changes incumbents.
        SignalError: (when it proposes) the loss or its first or second derivatives are not finite.
    """

    requires_closure: ClassVar[bool] = True
    gains_per_rate: ClassVar[bool] = True

    base: Method = field(default_factory=ZeroFanOut)
    steps: int = 100
    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        if not self.steps >= 0 or not self.learning_rate > 0:
            raise ConfigError(f"expected steps >= 0 and learning_rate > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_zero_side(self.base, axes, axis)

    def zero_side(self) -> Role | None:
        return self.base.zero_side()

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return self.base.needs(axes, axis, count)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        require_closure(view)
        view = reseeded(view, axis)
        plan = self.base.propose(view, axis, count)
        if not plan.births:
            return plan
        with trial(view.axes, [Change(axis, plan.gather, plan.start)], seed_of(view, axis)) as tried:
            zeros = zero_entries(view, plan, tried)
            climber = _Climber(view, zeros, tables(view, plan))
            climber.climb(self.steps, self.learning_rate)
            scores = zeros.squared_gradients(zeros.gradients(view)).detach().double().cpu()
            values = climber.values()
        best = scores.argsort(descending=True, stable=True)[: int((scores > 0).sum())]
        note = plan.note
        if len(best) < plan.births:
            note = f"{axis.name}: {len(best)} of {count}; the others would get no gradient from these data"
        start = Explicit(repr(self), {place: table[best] for place, table in values.items()}, plan.inexact)
        return Growth(axis, grown(axis, len(best)), likewise(plan, start), tuple(scores[best].tolist()), note)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        return torch.tensor(self.propose(view, axis, count).gains, dtype=torch.float64)


class _Climber:
    """Trains the non-zero weights of newborns as vectors, one for each newborn, on a product of spheres. Entries that
    are zero in all of them stay so: they may be the keys beside the queries in one tensor."""

    def __init__(self, view: View, zeros: ZeroEntries, values: Mapping[tuple[str, int], Tensor]) -> None:
        self._view, self._zeros, self._values = view, zeros, values
        gathered = zeros.gathered
        roles = (Role.PRODUCES, Role.READS)
        self._moving = [p for p in places(view, gathered.axis, *roles) if bool(values[key(p)].any())]
        start = torch.cat([wide(values[key(place)]).flatten(1) for place in self._moving], 1)
        self._free = require_finite(start, f"what newborns of {gathered.axis.name!r} start from").any(0)
        self._start = start[:, self._free]
        self._norms = torch.linalg.vector_norm(self._start, dim=1, keepdim=True)
        self._vectors = self._start.clone()

    @property
    def trial(self) -> Trial:
        return self._zeros.trial

    def climb(self, steps: int, learning_rate: float) -> None:
        """Ascend, and leave the result in place."""
        self._vectors = vectors = torch.nn.Parameter(_orthogonal(self._start, self._norms))
        size = float(self._start.detach().square().mean().sqrt())
        adam = torch.optim.Adam([vectors], learning_rate * size, maximize=True)
        self._place()
        for _ in range(steps):
            vectors.grad = _tangent(self._gradient(), vectors.detach() / self._norms.clamp(min=1e-30))
            adam.step()
            with torch.no_grad():
                vectors.copy_(_orthogonal(vectors, self._norms))
            self._place()

    def values(self) -> dict[tuple[str, int], Tensor]:
        """What newborns start from now."""
        return {**self._values, **{key(p): table.detach() for p, table in self._tables(self._vectors)}}

    def _place(self) -> None:
        tensors = {place.layout.name: self.trial.parameter(place.layout.name).detach() for place in self._moving}
        for place, table in self._tables(self._vectors):
            name = place.layout.name
            mine = self._laid(place, torch.ones_like(table)) != 0
            tensors[name] = torch.where(mine, self._laid(place, table).to(tensors[name]), tensors[name])
        placed(self.trial, tensors)

    def _gradient(self) -> Tensor:
        """Of the objective with respect to the vectors."""
        with torch.enable_grad():
            found = self._zeros.gradients(self._view, create_graph=True)
            objective = self._zeros.squared_gradients(found).sum()
        parameters = [self.trial.parameter(place.layout.name) for place in self._moving]
        live = [p for p in parameters if p.requires_grad]
        if not objective.requires_grad or not live:
            return torch.zeros_like(self._start)
        by_id = dict(zip(map(id, live), torch.autograd.grad(objective, live, allow_unused=True), strict=True))
        gathered = self._zeros.gathered
        rows = []
        for place, parameter in zip(self._moving, parameters, strict=True):
            gradient = by_id.get(id(parameter))
            whole = torch.zeros_like(parameter) if gradient is None else gradient
            rows.append(wide(gathered.table(whole, place, gathered.newborns)).flatten(1).to(self._start))
        found = torch.cat(rows, 1)[:, self._free]
        return require_finite(found, f"second derivatives at newborns of {gathered.axis.name!r}")

    def _laid(self, place: Place, table: Tensor) -> Tensor:
        return self._zeros.gathered.laid(place, table, self._zeros.gathered.newborns)

    def _tables(self, vectors: Tensor) -> list[tuple[Place, Tensor]]:
        shapes = [self._values[key(place)].shape for place in self._moving]
        whole = vectors.new_zeros(len(vectors), len(self._free))
        whole[:, self._free] = vectors.detach()
        parts = whole.split([shape[1:].numel() for shape in shapes], 1)
        return [(p, part.reshape(shape)) for p, part, shape in zip(self._moving, parts, shapes, strict=True)]


def _tangent(gradient: Tensor, directions: Tensor) -> Tensor:
    """Without what would only undo orthogonality or norms, so that Adam, which looks at single entries, can settle."""
    inner = gradient @ directions.T
    return gradient - (inner + inner.T) / 2 @ directions


def _orthogonal(vectors: Tensor, norms: Tensor) -> Tensor:
    """The nearest orthogonal rows with these norms; rows that were zero stay zero."""
    directions = vectors.detach() / torch.linalg.vector_norm(vectors.detach(), dim=1, keepdim=True).clamp(min=1e-30)
    u, _, v = torch.linalg.svd(directions, full_matrices=False)
    found = u @ v
    lengths = torch.linalg.vector_norm(found, dim=1, keepdim=True).clamp(min=1e-30)
    return found / lengths * norms
