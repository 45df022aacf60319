"""How random newborns would respond, and how that is correlated with what incumbents do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.signals.batch import Arrival, Batch, Block
from meristem.signals.newborn import activations, kaiming, moments_of, pre_activations
from meristem.signals.sites import obstacle
from meristem.signals.statistic import Accumulator, Statistic


@dataclass(frozen=True, eq=False)
class Proposed:
    """The result of `Proposals`.

    Attributes:
        incoming: fan-in of each candidate, float64, shape (candidates, fan-in).
        gram: mean over samples and positions of `h h^T`, h the activations of [incumbents, candidates] as the first
            reader reads them; float64, shape (units + candidates, units + candidates).
        mean, variance: of the candidates' pre-activations, shape (candidates,).
        fan_in, fan_out: how newborns' vectors are composed.
    """

    incoming: Tensor
    gram: Tensor
    mean: Tensor
    variance: Tensor
    fan_in: tuple[Block, ...]
    fan_out: tuple[Block, ...]


@dataclass(frozen=True)
class Proposals(Statistic):
    """The Gram matrix of incumbents' activations and those of randomly drawn candidates.

    The candidates are drawn at the first batch (Kaiming's uniform distribution, biases too). Nothing is inserted and no
    pass is added: a batch costs one contraction of the producer with `count` units and one product for the Gram matrix.

    Attributes:
        count: how many candidates.
        seed: of their own generator.
    """

    count: int = 100
    seed: int = 0

    def accumulator(self) -> Accumulator:
        return _Accumulator(self)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis, one_producer=True, any_norm=True)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    kept: ClassVar[tuple[str, ...]] = ("incoming", "total", "moments")

    asked: Proposals
    incoming: Tensor | None = None
    total: Tensor | None = None
    moments: Tensor | None = None
    blocks: tuple[tuple[Block, ...], tuple[Block, ...]] = ((), ())

    def add(self, batch: Batch, closing: bool) -> None:
        if self.incoming is None:
            generator = torch.Generator().manual_seed(self.asked.seed)
            self.incoming = kaiming(batch, self.asked.count, generator)
        f = torch.cat([_read(batch, arrivals, self.incoming) for arrivals in batch.first_reader])
        units = torch.cat([batch.activations, f, f.new_ones(len(f), 1)], 1)  # the ones count the rows
        moments = moments_of(batch, self.incoming)
        total = (units.T @ units).double()
        self.total = total if self.total is None else self.total + total
        self.moments = moments if self.moments is None else self.moments + moments
        self.blocks = batch.fan_in, batch.fan_out

    def parts(self) -> Sequence[Tensor]:
        return tuple(part for part in (self.total, self.moments) if part is not None)

    def result(self) -> Proposed:
        assert self.incoming is not None
        assert self.total is not None
        assert self.moments is not None
        gram = self.total[:-1, :-1] / self.total[-1, -1]
        mean, square = self.moments[1:] / self.moments[0]
        return Proposed(self.incoming, gram, mean, (square - mean**2).clamp(min=0), *self.blocks)


def _read(batch: Batch, arrivals: Sequence[Arrival], incoming: Tensor) -> Tensor:
    """What one call of a reader would read of candidates, from all that leads to it: shape (rows, candidates)."""
    found = [activations(a, pre_activations(batch, a, incoming)) for a in arrivals]
    return sum(found[1:], found[0]).movedim(1, -1).flatten(0, -2)
