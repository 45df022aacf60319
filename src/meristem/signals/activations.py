"""How the units of an axis are correlated: the second moment of what their readers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import pad

from meristem.axes.map import Axis, AxisMap
from meristem.signals.batch import Batch
from meristem.signals.sites import unfollowed
from meristem.signals.statistic import Accumulator, Statistic


@dataclass(frozen=True)
class Activations(Statistic):
    """The Gram matrix `E[h h^T]` of an axis' activations h as they are read, over samples and positions.

    Its result: float64, shape (axis.size, axis.size). The square roots of its eigenvalues are the singular values of
    `H / sqrt(n)`, H of shape (n, axis.size).
    """

    def accumulator(self) -> Accumulator:
        return _Accumulator()

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unfollowed(axes, axis)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    kept: ClassVar[tuple[str, ...]] = ("total",)

    total: Tensor | None = None

    def add(self, batch: Batch, closing: bool) -> None:
        units = pad(batch.activations, (0, 1), value=1.0)  # the ones count the rows
        moment = (units.T @ units).double()
        self.total = moment if self.total is None else self.total + moment

    def parts(self) -> Sequence[Tensor]:
        return () if self.total is None else (self.total,)

    def result(self) -> Tensor:
        assert self.total is not None
        return self.total[:-1, :-1] / self.total[-1, -1]
