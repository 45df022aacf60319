"""The directions in which newborns change the loss fastest: the leading singular vectors of the candidate gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import CheckpointError, SignalError
from meristem.signals import solve
from meristem.signals.batch import Batch, Block, width
from meristem.signals.best_move import ReaderSums, left_by, one_reader, reader_sums, without_best_move
from meristem.signals.finite import require_finite
from meristem.signals.sites import obstacle
from meristem.signals.statistic import Accumulator, Statistic
from meristem.signals.subspace import OVERSAMPLE, PASSES, Followed, Formed, Gradient, leading

_ROUNDING = 1e-7
"""Singular values below this share of the largest are rounding: they are roots of eigenvalues in float64."""


@dataclass(frozen=True, eq=False)
class Found:
    """Leading directions of one axis.

    Attributes:
        incoming: fan-in of each newborn, shape (newborns, fan-in): `S^-1/2 u`, or `u` if not whitened. Of
            `(u, v)` and `(-u, -v)` the one that decreases the loss more through the true activation function.
        outgoing: fan-out of each newborn, shape (newborns, fan-out): orthonormal.
        values: singular values, descending, shape (newborns,); `outgoing @ M @ incoming^T` is their diagonal.
        slopes: the derivative of the loss in the amplitude of newborns with this fan-in and `-outgoing`, at 0, through
            the true activation function, which must be 0 at 0; negative if newborns help. Of everything recorded;
            but by what a kink at 0 changes it, is estimated from the last pass. Shape (newborns,).
        mean, variance: of the newborns' pre-activations, if whitened and a batch norm follows; shape (newborns,
            channels), with one channel unless several belong to a unit.
        fan_in, fan_out: how the vectors are composed.
    """

    incoming: Tensor
    outgoing: Tensor
    values: Tensor
    slopes: Tensor
    mean: Tensor | None
    variance: Tensor | None
    fan_in: tuple[Block, ...]
    fan_out: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Found:
        """The leading ones of them."""
        return replace(
            self,
            incoming=self.incoming[:count],
            outgoing=self.outgoing[:count],
            values=self.values[:count],
            slopes=self.slopes[:count],
            mean=None if self.mean is None else self.mean[:count],
            variance=None if self.variance is None else self.variance[:count],
        )


@dataclass(frozen=True)
class Directions(Statistic):
    """The leading singular vectors of the candidate gradient M (METHODS: GradMax), or of `M S^-1/2` (TINY).

    Where few directions are wanted of a large M they are found by random projection, without ever forming M; of several
    passes (gradient accumulation) then, what is outside of the directions that led so far is lost.

    Where several channels belong to one unit, one of every group of a convolution say, M has a block for each of them,
    and so has S: the i-th newborn consists of the i-th direction of every block. Its channels have fan-outs of equal
    size, or if whitened of a size, as fan-ins have, that makes `values * outgoing * incoming` what it would be if each
    channel were a unit: `values` are the root mean square of those of the channels, or if whitened their sum.

    Attributes:
        count: how many directions.
        whitened: whether directions are measured by how far they move the activations: divided by the second moment S
            of what newborns read.
        ridge: what is added to S, as a share of its mean eigenvalue.
        residual: whether M is that of what the best move of the reader leaves (see `without_best_move`).

    Raises:
        SignalError: (while recording) what the best move leaves is asked for of several passes, and takes too much
            memory to be added up.
    """

    count: int = 1
    whitened: bool = False
    ridge: float = 1e-6
    residual: bool = False

    def accumulator(self) -> Accumulator:
        return _Accumulator(self)

    def covers(self, other: Statistic) -> bool:
        return isinstance(other, Directions) and self.count >= other.count and self == replace(other, count=self.count)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        if self.residual:
            return one_reader(axes, axis)
        return obstacle(axes, axis, one_producer=self.whitened, several=True)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    """Adds up M where it is formed; else follows the directions that lead, which every batch turns anew."""

    kept: ClassVar[tuple[str, ...]] = ("matrix", "reader", "basis", "projected", "moment", "count", "samples")
    alike: ClassVar[str] = "alike"

    asked: Directions
    matrix: Tensor | None = None
    reader: ReaderSums | None = None
    basis: Tensor | None = None
    projected: Tensor | None = None
    moment: Tensor | None = None
    count: int = 0
    samples: int = 0
    found: Found | None = None
    factor: Tensor | None = None
    each: list[_Accumulator] = field(default_factory=list)

    def add(self, batch: Batch, closing: bool) -> None:
        if batch.alike:
            self._add_each(batch, closing)
            return
        self.samples += batch.samples
        if self.asked.whitened:
            self._add_moment(batch)
        if self.asked.residual:
            self._add_reader(batch)
        if self.reader is not None or (not self.asked.residual and _form(batch, self._rank(batch))):
            self.matrix = _sum(self.matrix, batch.candidate_gradient)
            if closing:
                left = total = Formed(self.matrix)
                if self.reader is not None:
                    left = Formed(left_by(self.reader, self.matrix, self.samples, self.asked.ridge))
                self._search(batch, left, total, Formed(batch.candidate_gradient), closing)
        else:
            left = total = Followed(batch, self.basis, self.projected)
            if self.asked.residual:
                left = Followed(without_best_move(batch, self.asked.ridge), None, None)
            self._search(batch, left, total, Followed(batch, None, None), closing)

    def result(self) -> Found:
        assert self.found is not None, "no batch was marked as closing"
        return self.found

    def memory(self) -> dict[str, Any]:
        return {**super().memory(), self.alike: [[each.asked.count, each.memory()] for each in self.each]}

    def recall(self, memory: Mapping[str, Any]) -> None:
        found = dict(memory)
        alike: Any = found.pop(self.alike, None)
        super().recall(found)
        try:
            self.each = [_Accumulator(replace(self.asked, count=int(count))) for count, _ in alike]
            for each, (_, kept) in zip(self.each, alike, strict=True):
                each.recall(kept)
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"what the directions of single channels had added up is malformed: {error}"
            ) from error

    def _add_each(self, batch: Batch, closing: bool) -> None:
        """Where units have several channels: for those of them that are alike each on its own."""
        if not self.each:
            counts = [self.asked.count * len(alike.channels) for alike in batch.alike]
            self.each = [_Accumulator(replace(self.asked, count=count)) for count in counts]
        for each, alike in zip(self.each, batch.alike, strict=True):
            each.add(alike.batch, closing)
        if closing:
            found = [(alike.channels, each.result()) for alike, each in zip(batch.alike, self.each, strict=True)]
            self.found = _united(found, batch, equal=not self.asked.whitened)

    def _rank(self, batch: Batch) -> int:
        return min(width(batch.fan_out), self.asked.count + OVERSAMPLE)

    def _add_moment(self, batch: Batch) -> None:
        moment, count = batch.second_moment
        read = f"the second moment of what newborns of {self.asked.axis!r} would read"
        require_finite(moment.diagonal(), read)  # where an entry is not, one of these is not
        self.moment = _sum(self.moment, moment)
        self.count += count
        self.factor = None

    def _add_reader(self, batch: Batch) -> None:
        """What is needed to take away the best move of several batches together, unless it takes too much memory."""
        first, sums = self.samples == batch.samples, reader_sums(batch)
        if sums is not None and (first or self.reader is not None):
            self.reader = sums if self.reader is None else tuple(a + b for a, b in zip(self.reader, sums, strict=True))
        elif not first:
            raise SignalError(
                f"the best move of what reads {self.asked.axis!r} cannot be taken away from several passes together: "
                "what it reads and what newborns would read have too many moments. Train the recorded step in one "
                "pass (no gradient accumulation, listen=1), or use best_move=False"
            )

    def _search(self, batch: Batch, left: Gradient, total: Gradient, last: Gradient, closing: bool) -> None:
        """The leading directions of what is left.

        Args:
            batch: the last one.
            left: M without what the best move of the reader takes; the same as total if that stays.
            total: M of everything recorded.
            last: M of the last batch.
            closing: whether they are asked for; else they are followed.
        """
        like = torch.empty(0, dtype=batch.dtype, device=batch.device)
        solve = None if self.moment is None else lambda y: self._unwhitened(self._whitened(y, batch))
        basis = leading(left, width(batch.fan_out), self._rank(batch), like, solve)
        y = left.times(basis)
        if isinstance(left, Followed):
            self.basis, self.projected = basis, y
        if closing:
            whole = y if left is total else total.times(basis)
            here = whole if self.samples == batch.samples else last.times(basis)
            self.found = self._solve(batch, basis, y, whole, here)

    def _whitened(self, incoming: Tensor, batch: Batch) -> Tensor:
        """`incoming @ S^-1/2`, with a root of S that is triangular."""
        if self.moment is None:
            return incoming
        if self.factor is None:
            entries = width(batch.fan_in)  # without the 1 in the last place, where newborns have no bias
            self.factor = solve.factor(self.moment[:entries, :entries], self.asked.ridge)
        return self._solved(incoming, self.factor.mT, upper=True)

    def _unwhitened(self, whitened: Tensor) -> Tensor:
        """`whitened @ S^-1/2`, with the transposed root."""
        return whitened if self.factor is None else self._solved(whitened, self.factor, upper=False)

    def _solved(self, y: Tensor, factor: Tensor, *, upper: bool) -> Tensor:
        solved = torch.linalg.solve_triangular(factor, y.to(factor.dtype), upper=upper, left=False)
        return solved.mul_(self.samples**0.5)  # the factor is that of a sum over samples

    def _solve(self, batch: Batch, basis: Tensor, y: Tensor, whole: Tensor, last: Tensor) -> Found:
        """The singular vectors of y within the basis; their signs and slopes.

        With the activation function linearised slopes are known of everything, `whole`. What they differ from that by
        is known of this batch, of which `last` is, and taken to be the same share of all samples.
        """
        z = self._whitened(y, batch)
        double = z.double()
        products = require_finite(double @ double.T, f"the squared gradients at newborns of {self.asked.axis!r}")
        squares, vectors = torch.linalg.eigh(products)
        order = squares.argsort(descending=True)[: self.asked.count]
        rounding = max(_ROUNDING, torch.finfo(batch.dtype).eps * max(z.shape))
        order = order[squares[order] > squares.max() * rounding**2]
        values = squares[order].sqrt()
        outgoing = vectors.T[order] @ basis
        incoming = self._unwhitened((vectors.T[order] / values[:, None]).to(z) @ z).double()
        small = torch.finfo(batch.dtype).eps ** (1 / 3)  # where an activation function is its derivative on either side
        here, there = batch.response(small * incoming, outgoing / small).double().unbind()
        share = self.samples / batch.samples
        rest = ((vectors.T[order] @ (share * last.double() - whole)) * incoming).sum(1) if whole is not last else 0
        here, there = rest - share * here, rest + share * there
        better = here <= there
        slopes, sign = torch.where(better, here, there), torch.where(better, 1.0, -1.0).to(incoming)[:, None]
        incoming, outgoing = incoming * sign, outgoing * sign
        mean = variance = None
        if self.moment is not None and any(a.path.batch_norms for a in batch.arrivals):
            mean, variance = (x[:, None] for x in spread(self.moment.double() / self.count, incoming))
        return Found(incoming, outgoing, values, slopes, mean, variance, batch.fan_in, batch.fan_out)


def _united(found: Sequence[tuple[tuple[int, ...], Found]], batch: Batch, *, equal: bool) -> Found:
    """Units of several channels from directions of single channels.

    Args:
        found: the directions of some channels of all units, and which channels of a unit these are.
        batch: of the units.
        equal: whether all channels of a unit have fan-outs of the same size; else contributions of the same size as on
            their own.
    """
    units = min(len(directions) // len(channels) for channels, directions in found)
    order = [channel for channels, _ in found for channel in channels]
    back = torch.tensor(order).argsort()

    def of(entry: Callable[[Found], Tensor]) -> Tensor:
        """By unit and channel."""
        parts = [entry(f)[: units * len(c)].unflatten(0, (units, len(c))) for c, f in found]
        joined = torch.cat(parts, 1)
        return joined.index_select(1, back.to(joined.device))

    values = of(lambda f: f.values)
    total = values.square().mean(1, keepdim=True).sqrt() if equal else values.sum(1, keepdim=True)
    out = torch.full_like(values, len(order) ** -0.5) if equal else (values / total).sqrt()
    into = out * values / total if equal else out
    normed = all(f.mean is not None for _, f in found)
    return Found(
        _concatenated(of(lambda f: f.incoming) * into[..., None], batch.fan_in),
        _concatenated(of(lambda f: f.outgoing) * out[..., None], batch.fan_out),
        total[:, 0],
        (of(lambda f: f.slopes) * into * out).sum(1),
        of(lambda f: _known(f.mean)) * into if normed else None,
        of(lambda f: _known(f.variance)) * into.square() if normed else None,
        batch.fan_in,
        batch.fan_out,
    )


def _known(moments: Tensor | None) -> Tensor:
    """Of single channels: shape (newborns,)."""
    assert moments is not None
    return moments[:, 0]


def _concatenated(vectors: Tensor, blocks: Sequence[Block]) -> Tensor:
    """From vectors of single channels, (newborns, channels, width), to those of units: (newborns, width of all)."""
    parts = vectors.split([block.width // block.channels for block in blocks], 2)
    return torch.cat([part.flatten(1) for part in parts], 1)


def spread(moment: Tensor, incoming: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over samples and positions of newborns' pre-activations.

    Args:
        moment: mean of `u u^T` with u = (what is read, 1), shape (entries + 1, entries + 1).
        incoming: shape (newborns, entries), or (newborns, entries + 1) with a bias.
    """
    read = moment.shape[0] - 1
    weights, bias = incoming[:, :read], incoming[:, read:].sum(1)
    mean = weights @ moment[:-1, -1]
    square = ((weights @ moment[:-1, :-1]) * weights).sum(1)
    return mean + bias, (square - mean**2).clamp(min=0)


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    """Sums over several batches are float64; what one batch gives stays as it is."""
    return more if total is None else total.double() + more


def _form(batch: Batch, rank: int) -> bool:
    """Whether forming M costs less than the passes by random projection: multiplications per position, over all paths.

    M takes one product of channels for every distance between taps, a projection one for every tap of either side.
    Where M cannot be formed by correlation, because positions are mixed on the way, it is left alone.
    """
    formed = projected = 0
    for a in batch.arrivals:
        ins, outs = a.producer.ins, a.consumer.outs
        formed += ins * outs * prod(k + m - 1 for k, m in zip(a.producer.kernel, a.consumer.kernel, strict=False))
        projected += ins * prod(a.producer.kernel) + outs * prod(a.consumer.kernel)
    projected *= (2 * PASSES + 1) * rank
    mixing = any(a.path.mixes_positions for a in batch.arrivals)
    return rank >= min(width(batch.fan_in), width(batch.fan_out)) or (formed <= projected and not mixing)
