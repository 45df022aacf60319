"""How much gradient reaches the weights that produce each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.weight_gradients import Learner, Slices, hear_weights, weights_of


@dataclass(frozen=True)
class FanInGradient(Direct):
    """The size of the gradient of each unit's fan-in, by hooks on weights; on any axis that weights produce.

    The root of the mean over passes of `|dL/dW_in[j]|^2`, all weights that produce unit j together; float64, shape
    (axis.size,). A pass is one call of `backward`. Gradients that are not finite are left out. Over ranks squares add
    up.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[FanInGradient], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)


@dataclass(eq=False)
class _Sums(Sums, Learner):
    kept: ClassVar[tuple[str, ...]] = ("squares", "passes", "seen")

    axes: AxisMap
    axis: Axis
    overflow: Callable[[], None]
    squares: Tensor | None = None
    passes: Tensor | None = None
    seen: dict[str, int] = field(default_factory=dict)

    def weights(self, axes: AxisMap, axis: Axis) -> Sequence[str]:
        return weights_of(axes, axis)

    def learn(self, weight: str, gradient: Tensor) -> None:
        here = Slices(self.axes, self.axis, Role.PRODUCES).squares({weight: gradient}).double()
        if not bool(here.isfinite().all()):
            self.overflow()
            return
        self.seen[weight] = self.seen.get(weight, 0) + 1
        self.squares = here if self.squares is None else self.squares + here.to(self.squares.device)
        self.passes = torch.tensor([max(self.seen.values())], dtype=torch.float64, device=self.squares.device)

    def parts(self) -> Sequence[Tensor]:
        return () if self.squares is None or self.passes is None else (self.squares, self.passes)

    def result(self) -> Tensor:
        assert self.squares is not None
        assert self.passes is not None
        return (self.squares / self.passes).sqrt()


class _Tap(Tap):
    """Hooks on the weights that produce wanted axes."""

    def __init__(self, axes: AxisMap, asked: Sequence[FanInGradient], scale: Callable[[], float]) -> None:
        self._found = {s: _Sums(axes, axes.by_name[s.axis], self._overflow) for s in asked}
        self.sums = self._found
        learners: dict[str, list[Learner]] = {}
        for one in self._found.values():
            for place in axes.places[one.axis.index]:
                if Role.PRODUCES in place.roles and not place.layout.buffer:
                    learners.setdefault(place.layout.name, []).append(one)
        self._handles = hear_weights(axes.model, learners, scale)

    def problem(self) -> str | None:
        silent = sorted(s.axis for s, one in self._found.items() if one.squares is None)
        if not silent:
            return None
        return (
            f"no finite gradient was seen at the weights that produce {', '.join(silent)}. Gradients of weights need a "
            "training step with loss.backward() between the calls of plasticity.step(), and weights that require them"
        )

    def _overflow(self) -> None:
        self.overflowed = True

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
