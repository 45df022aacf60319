"""Candidates of two kinds at once: every unit of an axis split in two, and new units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.edit import Change, Explicit, Gather, Trial, trial
from meristem.grow.method import Growth
from meristem.grow.parts.closure import pulled_back, seed_of
from meristem.grow.parts.gathered import Gathered, wide
from meristem.grow.parts.moved import Moved, apart
from meristem.grow.parts.side import Side, produces, reads
from meristem.grow.parts.zero_side import tables
from meristem.signals import View

FAN_IN, FAN_OUT = 0.01, 0.1
"""Of new candidates: the bound of uniform fan-in, the standard deviation of fan-out."""
DECAY = 0.02, 0.0002
"""The gradient of the penalty on fan-in and moves, and on fan-out, as a share of them."""


@dataclass(frozen=True, eq=False)
class Swarm:
    """Candidates, numbered: the split of every unit, then the new units.

    Attributes:
        view, axis: where.
        into, out: the fan-in and fan-out of the axis.
        moves: v, by which the halves of each unit are moved: shape (units, fan-in).
        incoming, outgoing: of new units: shapes (new, fan-in), (new, fan-out).
    """

    view: View
    axis: Axis
    into: Side
    out: Side
    moves: Tensor
    incoming: Tensor
    outgoing: Tensor

    @classmethod
    def drawn(cls, view: View, axis: Axis, fresh: int) -> Swarm:
        """Random candidates."""
        into, out = Side.of(view, axis, produces), Side.of(view, axis, reads)

        def uniform(count: int) -> Tensor:
            drawn = torch.rand(count, into.width, dtype=torch.float64, generator=view.generator)
            return ((2 * drawn - 1) * FAN_IN).to(into.device, into.vectors().dtype).requires_grad_()

        outgoing = torch.randn(fresh, out.width, dtype=torch.float64, generator=view.generator) * FAN_OUT
        outgoing = outgoing.to(out.device, out.vectors().dtype).requires_grad_()
        return cls(view, axis, into, out, uniform(axis.size), uniform(fresh), outgoing)

    @contextmanager
    def trial(self) -> Iterator[Trial]:
        """All candidates in place: incumbents, a copy of each for each half, new units."""
        with trial(
            self.view.axes, [Change(self.axis, self._gather, self._start)], seed_of(self.view, self.axis)
        ) as tried:
            yield tried

    def train(self, tried: Trial, steps: int, learning_rate: float) -> None:
        """Train all candidates together."""
        leaves = [self.moves, self.incoming, self.outgoing]
        groups = [{"params": leaves[:2], "weight_decay": DECAY[0]}, {"params": leaves[2:], "weight_decay": DECAY[1]}]
        optimizer = torch.optim.RMSprop(groups, learning_rate, alpha=0.9, momentum=0.1)
        gates = torch.ones(len(self.moves) + len(self.incoming)).to(self.moves)
        for _ in range(steps):
            with torch.enable_grad():
                tensors = self.tensors(gates)
            for leaf, gradient in zip(leaves, pulled_back(self.view, tried, tensors, leaves), strict=True):
                leaf.grad = gradient
            optimizer.step()

    def scores(self, tried: Trial, passes: int) -> Tensor:
        """dL/dy of every candidate at y = 0, averaged: float64 on the CPU."""
        gates = torch.zeros(len(self.moves) + len(self.incoming)).to(self.moves).requires_grad_()
        total = torch.zeros(len(gates), dtype=torch.float64)
        for _ in range(passes):
            with torch.enable_grad():
                tensors = self.tensors(gates)
            total += pulled_back(self.view, tried, tensors, [gates])[0].double().cpu()
        return total / passes

    def norms(self) -> Tensor:
        """Of the weights that each candidate brings along: float64 on the CPU."""
        with torch.no_grad():
            split = 2 * self.moves.square().sum(1)
            new = self.incoming.square().sum(1) + self.outgoing.square().sum(1).to(self.incoming)
        return torch.cat([split, new]).double().cpu().sqrt().clamp(min=torch.finfo(torch.float64).tiny)

    def carried(self) -> dict[tuple[str, int], Tensor]:
        """What else new units start from, while they are in place."""
        growth = Growth(self.axis, self._gather, self._start)
        return {place: table[2 * self.axis.size :] for place, table in tables(self.view, growth).items()}

    def growth(
        self, kept: Tensor, asked: int, gains: Tensor, carried: Mapping[tuple[str, int], Tensor], name: str
    ) -> Growth:
        """The plan that makes some candidates real.

        Args:
            kept: their numbers.
            asked: how many newborns were wanted.
            gains: of all candidates.
            carried: what `carried` gave.
            name: of the method.
        """
        n = self.axis.size
        note = None if len(kept) == asked else f"{self.axis.name}: {len(kept)} of {asked}; no other candidate helps"
        gather = Gather((*range(n), *(c if c < n else -1 for c in kept.tolist())), (False,) * n + (True,) * len(kept))
        splits, new = kept[kept < n], kept[kept >= n] - n
        with torch.no_grad():
            moves = torch.zeros_like(self.moves)
            moves[splits] = self.moves[splits]
            shifts = apart(self.into, Gathered(self.view.axes, self.axis, gather), moves) if len(splits) else {}
            values = {place: table[new.to(table.device)] for place, table in carried.items()}
            values |= self.into.tables(self.incoming[new]) | self.out.tables(self.outgoing[new])
        reasons = ("newborns contribute at once",) if len(kept) else ()
        start = Moved(name, shifts, Explicit(name, values), reasons)
        return Growth(self.axis, gather, start, tuple(gains[kept].tolist()), note)

    def tensors(self, gates: Tensor) -> dict[str, Tensor]:
        """The weights on both sides, with every candidate mixed in by its gate. Differentiable."""
        gathered, n = Gathered(self.view.axes, self.axis, self._gather), self.axis.size
        units = torch.arange(len(gathered.gather))
        split, new = gates[:n], gates[n:]
        zeros = torch.zeros_like(self.moves)
        fan_in = self.into.laid(gathered, torch.cat([zeros, self.moves, -self.moves, self.incoming]), units)
        fan_out = self.out.laid(gathered, self.outgoing * new.to(self.outgoing)[:, None], units[3 * n :])
        factors = torch.cat([1 - split, split / 2, split / 2, torch.ones_like(new)])
        layouts = self.view.axes.layouts
        found = {name: gathered.moved(layouts[name], wide(self.view.tensors[name])) for name in (*fan_in, *fan_out)}
        for name, laid in fan_in.items():
            found[name] = found[name] + laid
        for place in self.out.places:
            found[place.layout.name] = found[place.layout.name] * gathered.factors(place, factors)
        return {**found, **{name: found[name] + laid for name, laid in fan_out.items()}}

    @property
    def _start(self) -> Moved:
        return Moved("candidates", {}, Explicit("candidates", {}), ())

    @property
    def _gather(self) -> Gather:
        n, fresh = self.axis.size, len(self.incoming)
        return Gather((*range(n), *range(n), *range(n), *(-1,) * fresh), (False,) * n + (True,) * (2 * n + fresh))
