"""From what was heard at both ends of an axis' paths to the `Batch` that statistics are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import End, Path
from meristem.errors import SignalError
from meristem.signals.batch import Arrival, Batch, Block
from meristem.signals.channels import dim_of
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
        out = dict.fromkeys(path.consumer.weight for path in self._paths)
        self._fan_in = tuple(self._block(name, Role.PRODUCES, end.bias) for name, end in into.items())
        self._fan_out = tuple(self._block(name, Role.READS) for name in out)

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
        return Batch(arrivals, self._fan_in, self._fan_out)

    def _block(self, weight: str, role: Role, bias: str | None = None) -> Block:
        dim = self._dim(weight, role)
        shape = self._axes.layouts[weight].shape(self._axes.sizes)
        shape = (*shape[:dim], *shape[dim + 1 :])
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
