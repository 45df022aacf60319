"""From what was heard at both ends of an axis' paths to the `Batch` that statistics are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import End, Path
from meristem.errors import SignalError
from meristem.signals.batch import Alike, Arrival, Batch, Block
from meristem.signals.channels import dim_of, groups_of, spreads
from meristem.signals.contraction import Contraction, flattened, rows


@dataclass(frozen=True, eq=False)
class Heard:
    """One contraction of one pass."""

    contraction: Contraction
    x: Tensor
    version: int
    positions: tuple[int, ...]

    @property
    def changed(self) -> bool:
        """Whether the input was overwritten since, which autograd notices only where it needs the input itself."""
        return self.x._version != self.version


class Composer:
    """Composes the batches of one axis.

    Args:
        axes, axis: the map and the axis.
    """

    def __init__(self, axes: AxisMap, axis: Axis) -> None:
        self._axes, self._axis, self._paths = axes, axis, axes.paths[axis.index]
        into = {path.producer.weight: path.producer for path in self._paths}
        out = {path.consumer.weight: path.consumer for path in self._paths}
        self._groups: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]] = ({}, {})
        if any(path.several for path in self._paths):
            self._groups = (
                {name: groups_of(axes, axis, end, Role.PRODUCES) for name, end in into.items()},
                {name: groups_of(axes, axis, end, Role.READS) for name, end in out.items()},
            )
        self._fan_in = tuple(self._block(end, Role.PRODUCES, end.bias) for end in into.values())
        self._fan_out = tuple(self._block(end, Role.READS) for end in out.values())

    def batch(self, heard: Mapping[End, Heard], deltas: Mapping[End, Tensor]) -> Batch | None:
        """What one pass gives, or None if no path was heard at both ends. Newborns' vectors are composed alike in every
        pass: of weights that it did not call, gradients are zero.

        Args:
            heard: the contractions of the pass.
            deltas: the gradients of what readers gave.

        Raises:
            SignalError: an input was overwritten since.
        """
        paths = [path for path in self._paths if path.consumer in deltas and path.producer in heard]
        if not paths:
            return None
        changed = [end.weight for path in paths for end in (path.producer, path.consumer) if heard[end].changed]
        if changed:
            raise SignalError(
                f"what {changed[0]} read was overwritten before the backward pass; do not modify it in place"
            )
        arrivals = tuple(_arrival(p, heard, deltas, self._columns(p.consumer.weight)) for p in paths)
        return Batch(arrivals, self._fan_in, self._fan_out, self._alike(arrivals))

    def _alike(self, arrivals: Sequence[Arrival]) -> tuple[Alike, ...]:
        """The batches of single channels, where units have several."""
        found: dict[tuple[int, ...], list[int]] = {}
        ends = [groups for side in self._groups for groups in side.values()]
        for channel, groups in enumerate(zip(*ends, strict=True)):
            found.setdefault(groups, []).append(channel)
        into, out = (tuple(replace(b, channels=1, groups=1) for b in side) for side in (self._fan_in, self._fan_out))
        return tuple(
            Alike(tuple(channels), Batch(tuple(self._within(a, channels[0]) for a in arrivals), into, out))
            for channels in found.values()
        )

    def _within(self, a: Arrival, channel: int) -> Arrival:
        """One path for one channel of a unit alone: within the groups that produce and read it."""
        into, out = self._groups
        before, after = into[a.path.producer.weight][channel], out[a.path.consumer.weight][channel]
        x = a.x.unflatten(1, (a.producer.groups, -1))[:, before]
        delta = a.delta.unflatten(1, (a.consumer.groups, -1))[:, after]
        return replace(a, x=x, delta=delta, producer=a.producer.one_group, consumer=a.consumer.one_group)

    def _block(self, end: End, role: Role, bias: str | None = None) -> Block:
        weight, dim = end.weight, self._dim(end.weight, role)
        shape = self._axes.layouts[weight].shape(self._axes.sizes)
        shape = (*shape[:dim], *shape[dim + 1 :])
        groups = self._groups[role is Role.READS]
        if groups:
            spread = end.groups if spreads(end, dim) else 1
            shape = (shape[0] // spread, *shape[1:])
            return Block(weight, dim, shape, 0, bias, len(groups[weight]), spread)
        each = len(self._columns(weight)) // self._axis.size if role is Role.READS else 1
        return Block(weight, dim, shape, 0, bias) if each == 1 else Block(weight, dim, (*shape, each), each)

    def _columns(self, weight: str) -> Tensor:
        dim = self._axes.layouts[weight].dims[self._dim(weight, Role.READS)]
        return (units_along(dim, self._axis.index, self._axes.sizes) >= 0).nonzero().flatten()

    def _dim(self, weight: str, role: Role) -> int:
        return dim_of(self._axes, weight, self._axis, role)


def _arrival(path: Path, heard: Mapping[End, Heard], deltas: Mapping[End, Tensor], columns: Tensor) -> Arrival:
    """Both ends in the form in which they are computed with."""
    before, after = heard[path.producer], heard[path.consumer]
    delta = deltas[path.consumer]
    consumer, positions = after.contraction, 0
    if before.contraction.kernel and not consumer.kernel:
        probe = path.middle(delta.new_zeros(1, 1, *before.positions, dtype=torch.float32))
        consumer, positions = flattened(consumer, tuple(probe.shape[2:])), probe[0, 0].numel()
        delta = delta.reshape(*delta.shape[:2], *(1 for _ in probe.shape[2:]))
    x, delta = rows(before.x, before.contraction), rows(delta, consumer)
    reads = rows(after.x, after.contraction)
    return Arrival(path, x, delta, before.contraction, consumer, positions, reads, after.contraction, columns)
