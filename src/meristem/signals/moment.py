"""How strongly newborns' inputs vary and agree: the second moment of what the weights that produce an axis read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.signals.batch import Batch, Block
from meristem.signals.sites import unfollowed
from meristem.signals.statistic import Accumulator, Statistic


@dataclass(frozen=True, eq=False)
class Moment:
    """The result of `SecondMoment`.

    Attributes:
        matrix: mean over samples and positions of `u u^T`, u = (patch, 1); float64, shape (entries + 1, entries + 1).
        fan_in, fan_out: how newborns' vectors are composed.
    """

    matrix: Tensor
    fan_in: tuple[Block, ...]
    fan_out: tuple[Block, ...]


@dataclass(frozen=True)
class SecondMoment(Statistic):
    """The second moment of what newborns would read, with the mean in its last row and column."""

    def accumulator(self) -> Accumulator:
        return _Accumulator()

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unfollowed(axes, axis, one_producer=True)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    kept: ClassVar[tuple[str, ...]] = ("total",)

    total: Tensor | None = None
    blocks: tuple[tuple[Block, ...], tuple[Block, ...]] = ((), ())

    def add(self, batch: Batch, closing: bool) -> None:
        moment = batch.second_moment[0].double()
        self.total = moment if self.total is None else self.total + moment
        self.blocks = batch.fan_in, batch.fan_out

    def parts(self) -> Sequence[Tensor]:
        return () if self.total is None else (self.total,)

    def result(self) -> Moment:
        assert self.total is not None
        return Moment(self.total / self.total[-1, -1], *self.blocks)
