"""One forward and backward pass, seen from one axis: what newborns could read, and what the loss wants of readers.

Newborns' weights are written as vectors. The *fan-in* of a newborn is the concatenation, over the weights that produce
the axis, of its slice `(in, *kernel)` and its bias if there is one; its *fan-out* the concatenation, over the weights
that read the axis, of `(out, *kernel)`. Between them the loss is, to first order in both, `outgoing^T M incoming` with
the candidate gradient M of shape (fan-out, fan-in).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from meristem.axes.path import End, Path
from meristem.signals.candidate import candidate_gradient, fan_in_gradient, fan_out_gradient, response
from meristem.signals.contraction import Contraction, rows
from meristem.signals.linearised import Linearised, linearise, pointwise
from meristem.signals.moments import second_moment
from meristem.signals.precision import precise, wide


@dataclass(frozen=True)
class Block:
    """The share of one weight in newborns' fan-in or fan-out.

    Attributes:
        weight: its name.
        dim: the dimension along which units are born.
        shape: of one newborn's slice, `(in or out, *kernel)`; of one of its channels if it has several.
        positions: how many indices along `dim` belong to one unit where positions are flattened; 0 where they are not.
        bias: the name of the bias that a newborn brings along, or None.
        channels: how many channels a newborn has; their vectors are concatenated.
        groups: over how many groups they are spread, where indices along `dim` stand for one channel of each.
    """

    weight: str
    dim: int
    shape: tuple[int, ...]
    positions: int = 0
    bias: str | None = None
    channels: int = 1
    groups: int = 1

    @property
    def width(self) -> int:
        """The number of entries in the vector."""
        return self.channels * (prod(self.shape) + (self.bias is not None))

    def entries(self, vectors: Tensor) -> dict[tuple[str, int], Tensor]:
        """Vectors of shape (newborns, width) as values for `Explicit`."""
        found: dict[tuple[str, int], Tensor] = {}
        if self.channels > 1:
            slices = vectors.unflatten(1, (self.channels, -1))
            if self.bias is not None:
                found[self.bias, 0] = slices[..., -1]
                slices = slices[..., :-1]
            slices = slices.reshape(len(vectors), self.groups, self.channels // self.groups, *self.shape)
            found[self.weight, self.dim] = slices.transpose(1, 2).flatten(2, 3)
            if self.groups == 1:
                found[self.weight, self.dim] = slices[:, 0]
            return found
        if self.bias is not None:
            found[self.bias, 0] = vectors[:, -1:]
            vectors = vectors[:, :-1]
        if self.positions:
            found[self.weight, self.dim] = vectors.reshape(len(vectors), self.shape[0], self.positions).transpose(1, 2)
        else:
            found[self.weight, self.dim] = vectors.reshape(len(vectors), 1, *self.shape)
        return found


@dataclass(frozen=True, eq=False)
class Arrival:
    """One path in one pass.

    Attributes:
        path: the path.
        x: what the producer read.
        delta: the gradient of the loss with respect to what the consumer gave.
        producer, consumer: their geometry; a consumer of flattened positions as a convolution over all of them.
        positions: how many indices of the consumer's weight belong to one unit where positions are flattened, else 0.
        reads: what the consumer read, with one leading dimension.
        reader: how the consumer read it: its geometry without positions taken for a kernel.
        columns: which of the channels that it read belong to the axis, unit by unit; int64.
    """

    path: Path
    x: Tensor
    delta: Tensor
    producer: Contraction
    consumer: Contraction
    positions: int
    reads: Tensor
    reader: Contraction
    columns: Tensor

    @cached_property
    def between(self) -> Linearised:
        """What stands between the two, with its derivative."""
        like = self.x.new_empty(0, dtype=wide(self.x, self.delta))
        found = linearise if self.path.mixes_positions else pointwise
        with precise(self.x.device):
            return found(self.path.middle, self.producer.outputs(rows(self.x, self.producer).shape[2:]), like)


@dataclass(frozen=True, eq=False)
class Batch:
    """Everything about one axis in one pass.

    Attributes:
        arrivals: all paths.
        fan_in, fan_out: how newborns' vectors are composed.
        alike: where several channels belong to one unit: the same of a single channel, once for those channels that the
            same groups of convolutions produce and read. Then nothing else is to be asked of this batch than how many
            samples it has, in what dtype and where.
    """

    arrivals: tuple[Arrival, ...]
    fan_in: tuple[Block, ...]
    fan_out: tuple[Block, ...]
    alike: tuple[Alike, ...] = ()

    @property
    def samples(self) -> int:
        """The number of samples: the length of the first dimension."""
        return self.arrivals[0].x.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """In which it is computed: float32 or better."""
        return torch.promote_types(self.arrivals[0].x.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.arrivals[0].x.device

    def fan_in_gradient(self, outgoing: Tensor) -> Tensor:
        """`outgoing @ M`: the gradient of the loss with respect to the fan-in of newborns with this fan-out.

        Args:
            outgoing: shape (newborns, fan-out).

        Returns:
            shape (newborns, fan-in).
        """
        out = _split(outgoing.to(self.device, self.dtype), self.fan_out)
        found = {
            block.weight: outgoing.new_zeros(len(outgoing), block.width, dtype=self.dtype) for block in self.fan_in
        }
        for a in self.arrivals:
            gradient = fan_in_gradient(a.x, a.delta, out[a.path.consumer.weight], a.producer, a.consumer, a.between)
            total = found[a.path.producer.weight]
            total += gradient[:, : total.shape[1]]
        return torch.cat([found[block.weight] for block in self.fan_in], 1)

    def fan_out_gradient(self, incoming: Tensor) -> Tensor:
        """`incoming @ M^T`: the gradient with respect to the fan-out of newborns with this fan-in.

        Args:
            incoming: shape (newborns, fan-in).

        Returns:
            shape (newborns, fan-out).
        """
        into = _with_bias(incoming.to(self.device, self.dtype), self.fan_in)
        found = {
            block.weight: incoming.new_zeros(len(incoming), block.width, dtype=self.dtype) for block in self.fan_out
        }
        for a in self.arrivals:
            alpha = into[a.path.producer.weight]
            gradient = fan_out_gradient(a.x, a.delta, alpha, a.producer, a.consumer, a.between)
            found[a.path.consumer.weight] += gradient.flatten(1)
        return torch.cat([found[block.weight] for block in self.fan_out], 1)

    @cached_property
    def candidate_gradient(self) -> Tensor:
        """M in full: shape (fan-out, fan-in)."""
        found: dict[tuple[str, str], Tensor] = {}
        for a in self.arrivals:
            gradient = candidate_gradient(a.x, a.delta, a.producer, a.consumer, a.between)
            pair = a.path.consumer.weight, a.path.producer.weight
            found[pair] = found[pair] + gradient if pair in found else gradient

        def block(out: Block, into: Block) -> Tensor:
            known = found.get((out.weight, into.weight))
            if known is None:
                return torch.zeros(out.width, into.width, dtype=self.dtype, device=self.device)
            return known[:, : into.width]

        return _joined([_joined([block(out, into) for into in self.fan_in], 1) for out in self.fan_out], 0)

    @cached_property
    def second_moment(self) -> tuple[Tensor, int]:
        """Sum over samples and positions of `u u^T`, u = (what a newborn's fan-in reads, 1), and their number.

        Shape (fan-in + 1, fan-in + 1), whether newborns have a bias or not. Only where one weight produces the axis.
        """
        found = [second_moment(a.x, a.producer) for a in self.producers]
        return sum((moment for moment, _ in found[1:]), found[0][0]), sum(count for _, count in found)

    @cached_property
    def first_reader(self) -> tuple[tuple[Arrival, ...], ...]:
        """The calls of the first reader: for each, all paths that lead to it."""
        weight = self.arrivals[0].path.consumer.weight
        calls: dict[End, list[Arrival]] = {}
        for a in self.arrivals:
            if a.path.consumer.weight == weight:
                calls.setdefault(a.path.consumer, []).append(a)
        return tuple(map(tuple, calls.values()))

    @cached_property
    def producers(self) -> tuple[Arrival, ...]:
        """One path for each call of what produces the axis."""
        return tuple({a.path.producer: a for a in self.arrivals}.values())

    @cached_property
    def activations(self) -> Tensor:
        """What the first reader reads, in all its calls, in float32 or better: shape (samples * positions, units)."""
        return torch.cat([self._read(a) for a, *_ in self.first_reader])

    def _read(self, a: Arrival) -> Tensor:
        h = a.reads.index_select(1, a.columns.to(a.reads.device)).to(self.dtype)
        if a.positions:
            h = h.unflatten(1, (-1, a.positions))
        return h.movedim(1, -1).flatten(0, -2)

    def response(self, incoming: Tensor, outgoing: Tensor) -> Tensor:
        """The derivative of the loss in a common factor on the fan-out of newborns that read `incoming`, through the
        true activation function.

        Args:
            incoming: shape (newborns, fan-in).
            outgoing: shape (newborns, fan-out).

        Returns:
            shape (2, newborns): of these newborns, and of those with the negative fan-in.
        """
        into = _with_bias(incoming.to(self.device, self.dtype), self.fan_in)
        out = _split(outgoing.to(self.device, self.dtype), self.fan_out)
        total = incoming.new_zeros(2, len(incoming), dtype=self.dtype)
        for a in self.arrivals if len(incoming) else ():
            alpha, omega = into[a.path.producer.weight], out[a.path.consumer.weight]
            total += response(a.x, a.delta, alpha, omega, a.producer, a.consumer, a.between)
        return total


@dataclass(frozen=True, eq=False)
class Alike:
    """What one pass gives for some channels of all units.

    Attributes:
        channels: which channels of each unit, in order.
        batch: as if one of them were a unit.
    """

    channels: tuple[int, ...]
    batch: Batch


def width(blocks: Sequence[Block]) -> int:
    """The length of the vectors that are composed like this."""
    return sum(block.width for block in blocks)


def entries(blocks: Sequence[Block], vectors: Tensor) -> dict[tuple[str, int], Tensor]:
    """Vectors of shape (newborns, width) as values for `Explicit`."""
    found: dict[tuple[str, int], Tensor] = {}
    for block, part in zip(blocks, vectors.split([block.width for block in blocks], 1), strict=True):
        found.update(block.entries(part))
    return found


def _split(vectors: Tensor, blocks: Sequence[Block]) -> Mapping[str, Tensor]:
    parts = vectors.split([block.width for block in blocks], 1)
    return {b.weight: part.reshape(len(part), *b.shape) for b, part in zip(blocks, parts, strict=True)}


def _with_bias(vectors: Tensor, blocks: Sequence[Block]) -> Mapping[str, Tensor]:
    """Each weight's share with a column for the bias, of zeros where there is none."""
    parts = vectors.split([block.width for block in blocks], 1)
    return {
        b.weight: part if b.bias is not None else torch.nn.functional.pad(part, (0, 1))
        for b, part in zip(blocks, parts, strict=True)
    }


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
