"""How the units of an axis get from a weight that produces them to a weight that reads them: the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from meristem.axes.expression import Expression, size_of
from meristem.axes.live import Computed, Live, Model
from meristem.axes.operators import elementwise


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for the activation among the arguments of a step."""


@dataclass(frozen=True, slots=True)
class Born:
    """Stands for an operand with an entry for every unit, as a slope is: the entry with which newborns are born."""

    number: float


@dataclass(frozen=True, slots=True)
class Step:
    """An operator that is applied to each unit alone, and to all newborns alike: an activation function, a pooling, an
    interpolation or padding of positions, a gate that all units share.

    Attributes:
        operator: the operator. Of several results the first counts.
        args, kwargs: its arguments, with a `Slot` where the activation stands, what may change as `Live` and
            `Computed`, and `Born` for what units have of their own.
    """

    operator: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it; shape (batch, units, *positions), or (samples, units). The argument stays as it is."""
        x = x.clone() if self.operator._schema.is_mutable else x
        given = self.operator(*_filled(self.args, x), **{key: _filled(value, x) for key, value in self.kwargs.items()})
        return given[0] if isinstance(given, tuple) else given

    @property
    def live(self) -> bool:
        """Whether it may change as the model is trained."""
        return any(isinstance(item, (Live, Computed)) for item in (*self.args, *self.kwargs.values()))

    def bound(self, model: Model) -> Step:
        """The same of another model."""
        args = tuple(_bound(item, model) for item in self.args)
        return replace(self, args=args, kwargs={key: _bound(item, model) for key, item in self.kwargs.items()})


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch normalization that carries the units: the names of its tensors (None if it has none), and its epsilon."""

    weight: str | None
    bias: str | None
    mean: str | None
    variance: str | None
    eps: float


@dataclass(frozen=True, slots=True)
class End:
    """One end of a path.

    Attributes:
        weight: the name of the weight.
        call: which of the calls in a run of the model that contract with it.
        bias: the name of the bias that the call adds, or None.
        groups: into how many blocks the call cuts what it reads and gives.
        transposed: whether the weight is laid out (in, out, ...) instead of (out, in, ...).
        whole: the channels of all groups together, of one of which the weight's second dimension is; None if there is
            one group, or if that is not known.
    """

    weight: str
    call: int
    bias: str | None = None
    groups: int = field(default=1, compare=False)
    transposed: bool = field(default=False, compare=False)
    whole: Expression | None = field(default=None, compare=False)

    def resized(self, dims: Sequence[Expression], sizes: Sequence[int]) -> End:
        """The same when axes have other sizes; groups may be an axis.

        Args:
            dims: of the weight.
            sizes: of all axes.
        """
        if self.whole is None:
            return self
        return replace(self, groups=size_of(self.whole, sizes) // size_of(dims[1], sizes))


@dataclass(frozen=True, slots=True)
class Path:
    """From one weight that produces the units of an axis to one that reads them.

    Attributes:
        producer, consumer: the ends.
        steps: what is applied on the way, in order. What does nothing to a newborn with neutral weights is left out.
        flattened: whether channels and positions are flattened before they are read.
        blocked: why units cannot be followed along the path, or None if they can.
        unknown: what a newborn would meet on the way that is neither its own nor a known number, or None.
        cut: whether what is read was detached on the way, so that no gradient comes back along the path.
        last: the elementwise operators behind the last contraction or norm on the way, also where the path is blocked.
        several: whether it is blocked for no other reason than that several channels belong to one unit, each of which
            can be followed on its own.
    """

    producer: End
    consumer: End
    steps: tuple[Step | BatchNorm, ...]
    flattened: bool
    blocked: str | None = None
    unknown: str | None = None
    cut: bool = False
    last: tuple[Step, ...] = ()
    several: bool = False

    @property
    def obstacle(self) -> str | None:
        """Why a newborn's activation cannot be followed along the path, or None if it can."""
        return self.blocked or self.unknown

    def bound(self, model: Model) -> Path:
        """The same of another model, from which numbers that may change are read."""
        if not self.live and not any(step.live for step in self.last):
            return self
        bound = (s.bound(model) if isinstance(s, Step) and s.live else s for s in self.steps)
        return replace(self, steps=tuple(bound), last=tuple(step.bound(model) for step in self.last))

    def resized(self, dims: Mapping[str, Sequence[Expression]], sizes: Sequence[int]) -> Path:
        """The same when axes have other sizes; `dims` are those of all weights."""
        if self.producer.whole is None and self.consumer.whole is None:
            return self
        producer, consumer = (end.resized(dims[end.weight], sizes) for end in (self.producer, self.consumer))
        return replace(self, producer=producer, consumer=consumer)

    @property
    def live(self) -> bool:
        """Whether a number on the way may change as the model is trained."""
        return any(isinstance(step, Step) and step.live for step in self.steps)

    @property
    def batch_norms(self) -> tuple[BatchNorm, ...]:
        """The batch normalizations on the way."""
        return tuple(step for step in self.steps if isinstance(step, BatchNorm))

    @property
    def mixes_positions(self) -> bool:
        """Whether something on the way, a pooling, an interpolation or padding, is not elementwise."""
        return any(isinstance(step, Step) and not elementwise(step.operator) for step in self.steps)

    @property
    def homogeneous(self) -> bool:
        """Whether pre-activations times a positive number give the same times that number: tried on numbers from 1e-4
        to 1e4 with a factor of 4, by which arithmetic is exact. All that mixes positions does."""
        z = torch.randn(1024, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        z = z * torch.logspace(-4, 4, len(z), dtype=torch.float64)[:, None]
        return torch.equal(self.activation(4 * z), 4 * self.activation(z))

    @property
    def zeros(self) -> bool:
        """Whether what is read may be exactly 0 other than by chance, as behind ReLU: whether an operator gives 0 all
        along an interval, and those behind it leave 0 as it is. Tried on numbers from -5 to 5, where exponentials do
        not yet vanish in double precision."""
        found, grid = False, torch.arange(-320, 321, dtype=torch.float64) / 64
        for step in self.last:
            given = step(grid)
            grid, zero = grid.to(given.dtype), given == 0
            found = bool((zero[1:] & zero[:-1]).any()) or (found and bool(zero[len(grid) // 2]))
        return found

    def activation(self, z: Tensor) -> Tensor:
        """What the elementwise operators on the way make of a number; any shape."""
        for step in self.steps:
            if isinstance(step, Step) and elementwise(step.operator):
                z = step(z)
        return z

    def middle(self, z: Tensor) -> Tensor:
        """From newborns' pre-activations to what the consumer reads of them, where batch normalizations do nothing.

        Args:
            z: shape (batch, units, *positions), or (samples, units).
        """
        for step in self.steps:
            if isinstance(step, Step):
                z = step(z)
        return z


def _filled(item: Any, x: Tensor) -> Any:
    if isinstance(item, Slot):
        return x
    if isinstance(item, (Live, Computed)):
        return item.value(x)
    if isinstance(item, Born):
        return x.new_full((), item.number)
    return type(item)(_filled(i, x) for i in item) if isinstance(item, (list, tuple)) else item


def _bound(item: Any, model: Model) -> Any:
    return item.bound(model) if isinstance(item, (Live, Computed)) else item
