"""What the weights that read an axis can do by themselves: the best move of them, and what it leaves for newborns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.signals.batch import Batch
from meristem.signals.convolve import forward, weight_gradient
from meristem.signals.moments import second_moment
from meristem.signals.sites import obstacle
from meristem.signals.solve import factor
from meristem.signals.statistic import Accumulator, Statistic


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
