"""Magnitude: units with small weights die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.errors import ConfigError
from meristem.prune.criterion import Criterion
from meristem.signals import View, index_norms, sum_by_unit


@dataclass(frozen=True)
class Magnitude(Criterion):
    """The p-norm of everything that produces a unit: `(sum |w| ** p) ** (1 / p)` over its slices.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710. An axis that several tensors
    produce (a residual stream) counts all of them. Multiplying a unit's fan-in by c and dividing its fan-out by c
    changes the score but, behind ReLU, not the function: that is the criterion's known weakness.

    Attributes:
        p: 1 or 2 (default).
        roles: which slices count. Default: those that produce the unit. `tuple(Role)` counts the whole coupled group
            (producers, readers and carried entries, as in DepGraph, arXiv 2301.12900). Buffers never count.
    """

    p: int = 2
    roles: tuple[Role, ...] = (Role.PRODUCES,)

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise ConfigError(f"Magnitude(p=...) must be 1 or 2, got {self.p!r}")
        if not self.roles:
            raise ConfigError("Magnitude(roles=...) is empty; name at least one role")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        if self._places(axes, axis):
            return None
        return f"no parameter {' or '.join(role.value for role in self.roles)} its units"

    def scores(self, view: View, axis: Axis) -> Tensor:
        parts = [
            sum_by_unit(index_norms(view.tensors[place.layout.name], place.dim, self.p), view.axes, axis, place)
            for place in self._places(view.axes, axis)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part.to(total.device)
        return total ** (1 / self.p)

    def _places(self, axes: AxisMap, axis: Axis) -> list[Place]:
        wanted = frozenset(self.roles)
        return [p for p in axes.places[axis.index] if not p.layout.buffer and p.roles & wanted]
