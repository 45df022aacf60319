"""Activity in one step alone, for a monitor: for less time and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import AxisMap, Role
from meristem.signals.activity import Heard, UnitActivity
from meristem.signals.sensor import Sensor
from meristem.signals.weight_gradients import Slices


@dataclass(frozen=True, eq=False)
class ActivitySums:
    """The result of `StepActivity`: that of `UnitActivity` before anything is divided or a root is taken.

    Attributes:
        read_rows: how many samples and positions were read.
        sums: shape (2, units): `|h| > threshold` and `|h|`, summed over them.
        given_rows: how many producers gave.
        gradient: shape (units,): `|dL/dz|`, summed over them.
        fan_in_squares, fan_out_squares: of the norms of gradients, in float32 or better.
    """

    read_rows: int
    sums: Tensor
    given_rows: int
    gradient: Tensor
    fan_in_squares: Tensor
    fan_out_squares: Tensor


@dataclass(frozen=True)
class StepActivity(UnitActivity):
    """As `UnitActivity`, of one optimizer step and one rank alone, for less time and memory.

    Gradients of weights are read where backward passes leave them, in `.grad`: what has been accumulated when the last
    pass of the step is over, before it is clipped. What was in `.grad` before the step counts too, if it was not
    zeroed; where an optimizer takes it away during the backward pass there is nothing to read, and they are 0. Over
    several steps or ranks it means nothing. Its result are `ActivitySums`, so that who has many axes can
    divide them all at once.
    """

    def sensor(self, axes: AxisMap) -> Sensor:
        return _OfStep((axes, axes.by_name[self.axis]), threshold=self.threshold)


@dataclass(eq=False)
class _OfStep(Heard):
    late: ClassVar[bool] = True

    squares: dict[tuple[str, Role], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes, axis = self.site
        found = dict.fromkeys((place.layout.name, role) for place in axes.places[axis.index] for role in place.roles)
        self._slices: dict[str, list[tuple[Role, Slices]]] = {}
        for weight, role in found:
            self._slices.setdefault(weight, []).append((role, Slices(axes, axis, role, weight)))

    def restart(self) -> None:
        super().restart()
        self.squares = {}

    def learn(self, weight: str, gradient: Tensor) -> None:
        for role, slices in self._slices[weight]:
            self.squares[weight, role] = slices.squares({weight: gradient})

    def result(self) -> ActivitySums:
        self._add_up()
        assert self.sums is not None
        assert self.gradient is not None
        squares = self._squares(Role.PRODUCES), self._squares(Role.READS)
        return ActivitySums(self.read_rows, self.sums, max(self.given_rows, 1), self.gradient, *squares)

    def _squares(self, role: Role) -> Tensor:
        found = [squares for (_, of), squares in self.squares.items() if of is role]
        if len(found) < 2:
            return found[0] if found else torch.zeros(self.site[1].size)
        return torch.stack(found).sum(0, dtype=torch.float64)
