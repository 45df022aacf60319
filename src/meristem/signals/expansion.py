"""Newborns that would raise the natural expansion score, and the moments from which it follows by how much."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.signals.batch import Arrival, Batch, Block
from meristem.signals.contraction import Contraction
from meristem.signals.convolve import forward, weight_gradient
from meristem.signals.langevin import climbed, on_sphere
from meristem.signals.memory import plain, restored
from meristem.signals.moments import second_moment
from meristem.signals.natural import Reader, bound, inverse_root, ridged
from meristem.signals.newborn import activations, kaiming, moments_of, pre_activations
from meristem.signals.sites import obstacle
from meristem.signals.statistic import Accumulator, Statistic

_ROWS = 2**15
"""The sampling looks at as many samples of the batch as have about so many positions; enough to tell newborns apart."""

_ENTRIES = 2**22
"""How many entries of what is read of candidates are held at once, with what their gradients need a few times that."""


@dataclass(frozen=True, eq=False)
class Expanded:
    """The result of `Expansion`.

    Attributes:
        incoming: fan-in of each candidate, float64, shape (candidates, fan-in).
        readers: the moments at each weight that reads the axis.
        gradient: mean over samples of the squared norm of the loss gradient at the readers' outputs, for a loss that
            is a mean over samples.
        mean, variance: of the candidates' pre-activations, shape (candidates,).
        fan_in, fan_out: how newborns' vectors are composed.
    """

    incoming: Tensor
    readers: tuple[Reader, ...]
    gradient: float
    mean: Tensor
    variance: Tensor
    fan_in: tuple[Block, ...]
    fan_out: tuple[Block, ...]


@dataclass(frozen=True)
class Expansion(Statistic):
    """Candidates drawn at random and improved on the first recorded pass, and second moments over all passes.

    Attributes:
        count: how many candidates.
        steps: of Langevin sampling. Each costs a forward and backward pass of all candidates up to the readers.
        temperature: of the sampling, as a share of the candidates' mean score.
        ridge: on all second moments that are inverted, as a share of their mean diagonal.
        seed: of the candidates, together with the axis and its size.
        norm: the norm that the fan-in of every candidate has, biases counted, from how fan-in is composed; asked for at
            the first pass. None: the mean norm of Kaiming's weights. No part of the question.
    """

    count: int = 100
    steps: int = 10
    temperature: float = 0.1
    ridge: float = 1e-2
    seed: int = 0
    norm: Callable[[Sequence[Block]], float] | None = field(default=None, compare=False, repr=False)

    def accumulator(self) -> Accumulator:
        return _Accumulator(self)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis, one_producer=True, any_norm=True)


@dataclass(eq=False)
class _Moments:
    """Sums at one reader, of gradients as they are in the loss of the step."""

    inputs: Tensor
    cross: Tensor
    outputs: Tensor
    rows: int
    today: int
    taps: int
    bias: bool

    def __add__(self, other: _Moments) -> _Moments:
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("inputs", "cross", "outputs", "rows")}
        return replace(self, **sums)

    def reader(self, samples: int) -> Reader:
        """As means, of gradients of single samples' losses, with what a bias reads behind what is read today.

        Args:
            samples: over how many samples the loss of the step is a mean.
        """
        order = torch.arange(len(self.inputs) - 1)
        ones = torch.tensor([len(order)] if self.bias else [], dtype=torch.int64)
        order = torch.cat([order[: self.today], ones, order[self.today :]]).to(self.inputs.device)
        inputs, cross = self.inputs[order][:, order] / self.rows, self.cross[:, order] * (samples / self.rows)
        today = self.today + self.bias
        outputs = self.outputs * (samples**2 / self.rows)
        return Reader(inputs, cross, outputs, today, self.taps, self.rows / samples)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    kept: ClassVar[tuple[str, ...]] = ("incoming", "moments", "samples")

    asked: Expansion
    incoming: Tensor | None = None
    moments: Tensor | None = None
    sums: dict[str, _Moments] = field(default_factory=dict)
    samples: int = 0
    blocks: tuple[tuple[Block, ...], tuple[Block, ...]] = ((), ())

    def add(self, batch: Batch, closing: bool) -> None:
        if self.incoming is None:
            self.incoming = self._found(batch)
        moments = moments_of(batch, self.incoming)
        self.moments = moments if self.moments is None else self.moments + moments
        for arrival in batch.arrivals:
            f = activations(arrival, pre_activations(batch, arrival, self.incoming))
            found, name = _moments(batch, arrival, f), arrival.path.consumer.weight
            self.sums[name] = self.sums[name] + found if name in self.sums else found
        self.samples += batch.samples
        self.blocks = batch.fan_in, batch.fan_out

    def result(self) -> Expanded:
        assert self.incoming is not None
        assert self.moments is not None
        readers = tuple(sums.reader(self.samples) for sums in self.sums.values())
        gradient = sum(float(sums.outputs.trace()) for sums in self.sums.values()) * self.samples
        mean, square = self.moments[1:] / self.moments[0]
        return Expanded(self.incoming, readers, gradient, mean, (square - mean**2).clamp(min=0), *self.blocks)

    def memory(self) -> dict[str, Any]:
        return {**super().memory(), "sums": {name: plain(vars(found)) for name, found in self.sums.items()}}

    def recall(self, memory: Mapping[str, Any]) -> None:
        others = dict(memory)
        sums = others.pop("sums", {})
        super().recall(others)
        self.sums = {name: _Moments(**restored(found)) for name, found in sums.items()}

    def _found(self, batch: Batch) -> Tensor:
        """The candidates: drawn, and improved a few at a time, all of one norm."""
        asked = self.asked
        generator = torch.Generator().manual_seed(zlib.crc32(f"{asked.seed}/{asked.axis}".encode()))
        start = kaiming(batch, asked.count, generator)
        radius = float(start.norm(dim=1).mean()) if asked.norm is None else asked.norm(batch.fan_in)
        reads = [_part(a, _residual(batch, a, asked.ridge)) for a in batch.arrivals]

        def score(directions: Tensor) -> Tensor:
            incoming, total = on_sphere(directions, radius), directions.new_zeros(len(directions))
            for arrival, residual in reads:
                f = activations(arrival, pre_activations(batch, arrival, incoming))
                total = total + len(residual) * bound(_taps(arrival, f), residual, asked.ridge)
            return total

        deviation = math.sqrt(2 / batch.arrivals[0].producer.fan_in)
        at_once = max(1, _ENTRIES // max(len(residual) * _width(a) for a, residual in reads))
        found = [self._improved(score, part, deviation, generator) for part in start.to(batch.dtype).split(at_once)]
        return on_sphere(torch.cat(found).double(), radius)

    def _improved(
        self, score: Callable[[Tensor], Tensor], start: Tensor, deviation: float, generator: torch.Generator
    ) -> Tensor:
        asked = self.asked
        return climbed(
            score, start, steps=asked.steps, temperature=asked.temperature, deviation=deviation, generator=generator
        )


def _part(arrival: Arrival, residual: Tensor) -> tuple[Arrival, Tensor]:
    """The first samples, and their rows."""
    positions = len(residual) // len(arrival.x)
    samples = min(len(arrival.x), -(-_ROWS // positions))
    return replace(arrival, x=arrival.x[:samples]), residual[: samples * positions]


def _gradient(batch: Batch, arrival: Arrival) -> Tensor:
    """The gradient of the loss at what the reader gives: (batch, outs, *positions)."""
    delta = arrival.delta.to(batch.dtype)
    return delta if arrival.reader.kernel else delta.flatten(1)


def _moments(batch: Batch, arrival: Arrival, f: Tensor) -> _Moments:
    """The sums of one path, candidates' activations f written behind what is read."""
    g, reads, reader = _gradient(batch, arrival), arrival.reads.to(batch.dtype), arrival.reader
    if not reader.kernel:
        f = f.flatten(1)
    joint = torch.cat([reads, f], 1)
    wider = replace(reader, weight=(reader.outs, joint.shape[1], *reader.kernel))
    inputs, rows = second_moment(joint, wider)
    columns = g.movedim(1, -1).flatten(0, -2)
    cross = torch.cat([weight_gradient(wider, joint, g).flatten(1), columns.sum(0)[:, None]], 1)
    outputs = columns.T @ columns
    return _Moments(
        inputs.double(), cross.double(), outputs.double(), rows, reader.fan_in, _width(arrival), reader.bias
    )


def _residual(batch: Batch, arrival: Arrival, ridge: float) -> Tensor:
    """What the reader's own best move leaves of the gradient, whitened: shape (rows, outs)."""
    g, reads, reader = _gradient(batch, arrival), arrival.reads.to(batch.dtype), arrival.reader
    none = reads.new_zeros(len(reads), 0, *reads.shape[2:])
    found = _moments(batch, arrival, none).reader(batch.samples)
    move = torch.linalg.solve(ridged(found.inputs, ridge), found.cross.T).T.to(batch.dtype)
    bias = move[:, -1] if reader.bias else move.new_zeros(reader.outs)
    weight = move[:, : reader.fan_in].reshape(reader.outs, reader.ins, *reader.kernel)
    residual = (batch.samples * g - forward(reader, reads, weight, bias)).movedim(1, -1).flatten(0, -2)
    return residual @ inverse_root(found.outputs, ridge).to(residual)


def _width(arrival: Arrival) -> int:
    """How many entries of the reader's weight belong to one unit and output."""
    return math.prod(arrival.consumer.kernel)


def _taps(arrival: Arrival, f: Tensor) -> Tensor:
    """What the reader would read of candidates, position by position: (batch, candidates, *positions) to
    (candidates, rows, taps)."""
    consumer, taps = arrival.consumer, _width(arrival)
    if not arrival.reader.kernel:
        return f.flatten(2).transpose(0, 1) if f.dim() > 2 else f.T[:, :, None]
    alone: Contraction = replace(consumer, weight=(taps, 1, *consumer.kernel), bias=False)
    one_hot = torch.eye(taps, dtype=f.dtype, device=f.device).reshape(alone.weight)
    read = forward(alone, f.flatten(0, 1)[:, None], one_hot, f.new_zeros(taps))
    return read.unflatten(0, f.shape[:2]).transpose(0, 1).movedim(2, -1).flatten(1, -2)
