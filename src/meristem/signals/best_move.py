"""What the weights that read an axis can do by themselves: the best move of them, and what it leaves for newborns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.signals.batch import Arrival, Batch, width
from meristem.signals.candidate import candidate_gradient
from meristem.signals.contraction import rows
from meristem.signals.convolve import forward, weight_gradient
from meristem.signals.correlation import split
from meristem.signals.moments import second_moment
from meristem.signals.precision import precise
from meristem.signals.sites import obstacle
from meristem.signals.solve import factor
from meristem.signals.statistic import Accumulator, Statistic

MOST = 2**25
"""So many moments of what a reader reads and what newborns would read are kept at most."""


@dataclass(frozen=True, eq=False)
class Move:
    """The best move of the weight that reads an axis, `dW = -E[grad h^T] E[h h^T]^-1` with the bias in h.

    Attributes:
        weight, bias: the names of what moves (no bias: None).
        delta: of the weight, shape (out, in, *kernel).
        delta_bias: of the bias, shape (out,).
        transposed: whether the weight is laid out (in, out, *kernel).
        decrease: of the loss per unit of amplitude, to first order: `tr(dW S dW^T)`.
    """

    weight: str
    bias: str | None
    delta: Tensor
    delta_bias: Tensor
    transposed: bool
    decrease: float

    @property
    def laid_out(self) -> Tensor:
        """The move of the weight in the layout that it has."""
        return self.delta.transpose(0, 1) if self.transposed else self.delta


@dataclass(frozen=True)
class BestMove(Statistic):
    """The best move of the only weight that reads an axis.

    Attributes:
        ridge: what is added to the second moment, as a share of its mean eigenvalue.
    """

    ridge: float = 1e-6

    def accumulator(self) -> Accumulator:
        return _Accumulator(self.ridge)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return one_reader(axes, axis)


def one_reader(axes: AxisMap, axis: Axis) -> str | None:
    """Why there is no best move of one weight, or None if there is."""
    blocked = obstacle(axes, axis, one_producer=True)
    if blocked is not None:
        return blocked
    readers = {path.consumer.weight for path in axes.paths[axis.index]}
    if len(readers) > 1:
        return f"{len(readers)} weights read it, which would have to move together"
    (layout,) = (axes.layouts[name] for name in readers)
    reads = [dim for dim, roles in enumerate(layout.roles) if Role.READS in roles.get(axis.index, ())]
    return None if len(reads) == 1 else "its reader also produces it"


def without_best_move(batch: Batch, ridge: float) -> Batch:
    """The batch as it would be if the reader had moved at its best: what is left of the gradients is uncorrelated with
    what the reader reads.

    TINY, arXiv 2405.19816: `V - dW* h` in place of `V`.
    """
    matrix = _solved(*_sums(batch), batch.samples, ridge)
    arrivals = []
    for a in batch.arrivals:
        weight, bias = _apart(matrix.to(batch.dtype), (a.reader.outs, a.reader.ins, *a.reader.kernel))
        moved = forward(a.reader, a.reads.to(batch.dtype), weight, bias) / batch.samples
        arrivals.append(replace(a, delta=a.delta + moved.reshape(a.delta.shape)))
    return replace(batch, arrivals=tuple(arrivals))


ReaderSums: TypeAlias = "tuple[Tensor, ...]"
"""Sums over samples and positions of `grad h^T`, `h h^T` and `h x^T`, the last one for each tap of the reader: shapes
(outs, entries), (entries, entries), (entries, taps * fan-in), with h what the reader reads, x what newborns would."""


def reader_sums(batch: Batch) -> ReaderSums | None:
    """What the best move of several batches together leaves can be told from, in float64; None where the last of the
    sums has more than `MOST` entries."""
    a = batch.arrivals[0]
    if (a.reader.fan_in + 1) * prod(a.consumer.kernel) * width(batch.fan_in) > MOST:
        return None
    gradient, moment = _sums(batch)
    cross = torch.stack([_crossed(batch, a, len(moment)) for a in batch.arrivals]).sum(0, dtype=torch.float64)
    return gradient, moment, cross


def left_by(sums: ReaderSums, matrix: Tensor, samples: int, ridge: float) -> Tensor:
    """The candidate gradient, as it is after the best move of the reader: `M + dW E[h x^T]`, shape and scale of M."""
    gradient, moment, cross = sums
    return matrix + (_solved(gradient, moment, samples, ridge) @ cross / samples).reshape(matrix.shape)


def _crossed(batch: Batch, a: Arrival, entries: int) -> Tensor:
    """`h x^T` along one path: what the candidate gradient would be if the gradient of the loss were h."""
    consumer, channels = replace(a.consumer, weight=(entries, *a.consumer.weight[1:])), a.reader.fan_in
    total = torch.zeros(entries, prod(consumer.kernel), width(batch.fan_in), dtype=batch.dtype, device=batch.device)
    eye = torch.eye(channels, dtype=batch.dtype, device=batch.device).reshape(channels, a.reader.ins, *a.reader.kernel)
    for x, reads, delta in split(rows(a.x, a.producer), a.reads, a.delta, entries=entries * prod(a.delta.shape[2:])):
        with precise(batch.device):
            taps = reads if not a.reader.kernel else forward(a.reader, reads, eye, eye.new_zeros(channels))
        h = torch.nn.functional.pad(taps.reshape(len(x), channels, -1), (0, 0, 0, entries - channels), value=1.0)
        found = candidate_gradient(x, h.reshape(len(x), entries, *delta.shape[2:]), a.producer, consumer, a.between)
        total += found[:, : total.shape[2]].reshape(total.shape)
    return total.flatten(1)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    kept: ClassVar[tuple[str, ...]] = ("gradient", "moment", "samples", "last")

    ridge: float
    gradient: Tensor | None = None
    moment: Tensor | None = None
    samples: int = 0
    last: tuple[str, str | None, tuple[int, ...], bool] = ("", None, (), False)

    def add(self, batch: Batch, closing: bool) -> None:
        gradient, moment = _sums(batch)
        self.gradient = gradient if self.gradient is None else self.gradient + gradient
        self.moment = moment if self.moment is None else self.moment + moment
        self.samples += batch.samples
        a = batch.arrivals[0]
        end, shape = a.path.consumer, (a.reader.outs, a.reader.ins, *a.reader.kernel)
        self.last = (end.weight, end.bias, shape, batch.fan_out[0].dim == 0)

    def result(self) -> Move:
        assert self.gradient is not None
        assert self.moment is not None
        matrix = _solved(self.gradient, self.moment, self.samples, self.ridge)
        weight, bias, shape, transposed = self.last
        decrease = -float((self.gradient * matrix).sum())
        return Move(weight, bias, *_apart(matrix, shape), transposed, decrease)


def _sums(batch: Batch) -> tuple[Tensor, Tensor]:
    """Sums over samples and positions of `grad h^T` and `h h^T` in float64, h with a 1 for the bias if there is one."""
    gradients, moments = [], []
    for a in {a.path.consumer: a for a in batch.arrivals}.values():
        reads, delta = a.reads.to(batch.dtype), a.delta.to(batch.dtype)
        delta = delta.flatten(1) if a.positions else delta
        weight = weight_gradient(a.reader, reads, delta).flatten(1)
        bias = delta.transpose(0, 1).flatten(1).sum(1, keepdim=True)
        entries = weight.shape[1] + (a.path.consumer.bias is not None)
        gradients.append(torch.cat([weight, bias], 1)[:, :entries].double())
        moments.append(second_moment(reads, a.reader)[0][:entries, :entries].double())
    return torch.stack(gradients).sum(0), torch.stack(moments).sum(0)


def _solved(gradient: Tensor, moment: Tensor, samples: int, ridge: float) -> Tensor:
    return -torch.cholesky_solve(gradient.T, factor(moment / samples, ridge)).T


def _apart(matrix: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weight and bias; a bias of zeros where there is none."""
    entries = torch.Size(shape[1:]).numel()
    bias = matrix[:, entries:].sum(1)
    return matrix[:, :entries].reshape(shape), bias
