"""How much gradient reaches the weights that produce each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.precision import wide
from meristem.signals.weight_gradients import Learner, hear_weights, in_step, slice_norms


@dataclass(frozen=True)
class FanInGradient(Direct):
    """The size of the gradient of each unit's fan-in, by hooks on weights; on any axis that weights produce.

    `|dL/dW_in[j]|`, all weights that produce unit j together, of the gradient that is summed over the passes of a step
    and averaged over steps, and summed over ranks; float64, shape (axis.size,). Passes with gradients that are not
    finite are left out. One copy of the gradients is held until it is asked for.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[FanInGradient], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)


@dataclass(eq=False)
class _Sums(Sums, Learner):
    kept: ClassVar[tuple[str, ...]] = ("totals", "steps")

    axes: AxisMap
    axis: Axis
    overflow: Callable[[], None]
    totals: dict[str, Tensor] = field(default_factory=dict)
    """By weight, summed over everything."""
    steps: int = 0
    open: bool = False
    """Whether a step has begun."""

    def weights(self, axes: AxisMap, axis: Axis) -> Sequence[str]:
        return _producers(axes, axis)

    def learn(self, weight: str, gradient: Tensor) -> None:
        gradient = gradient.to_dense()
        if not isfinite(gradient.sum(dtype=torch.float32).item()):
            self.overflow()
            return
        self.open = True
        held = self.totals.get(weight)
        self.totals[weight] = gradient if held is None else held.to(wide(held)) + gradient

    def stepped(self) -> None:
        """Count the step, if it gave something."""
        self.steps += self.open
        self.open = False

    def parts(self) -> Sequence[Tensor]:
        self.totals = in_step(self.totals, self.axes.model, _producers(self.axes, self.axis))
        return tuple(self.totals.values())

    def result(self) -> Tensor:
        self.stepped()
        assert self.steps
        return slice_norms(self.totals, self.axes, self.axis, Role.PRODUCES) / self.steps


def _producers(axes: AxisMap, axis: Axis) -> tuple[str, ...]:
    """The names of the weights that produce it."""
    found = [p.layout.name for p in axes.places[axis.index] if Role.PRODUCES in p.roles and not p.layout.buffer]
    return tuple(dict.fromkeys(found))


class _Tap(Tap):
    """Hooks on the weights that produce wanted axes."""

    def __init__(self, axes: AxisMap, asked: Sequence[FanInGradient], scale: Callable[[], float]) -> None:
        self._found = {s: _Sums(axes, axes.by_name[s.axis], self._overflow) for s in asked}
        self.sums = self._found
        learners: dict[str, list[Learner]] = {}
        for one in self._found.values():
            for name in _producers(axes, one.axis):
                learners.setdefault(name, []).append(one)
        self._handles = hear_weights(axes.model, learners, scale)

    def problem(self) -> str | None:
        silent = sorted(s.axis for s, one in self._found.items() if not one.totals)
        if not silent:
            return None
        return (
            f"no finite gradient was seen at the weights that produce {', '.join(silent)}. Gradients of weights need a "
            "training step with loss.backward() between the calls of plasticity.step(), and weights that require them"
        )

    def stepped(self) -> None:
        for one in self._found.values():
            one.stepped()

    def _overflow(self) -> None:
        self.overflowed = True

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
