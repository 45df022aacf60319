"""SWE: newborns take over shares of what incumbents do, and both are trained together for a moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Change, Explicit, Gather, Trial, trial
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.closure import pulled_back, require_closure, reseeded, seed_of
from meristem.grow.parts.gathered import Gathered, wide
from meristem.grow.parts.moved import Moved
from meristem.grow.parts.side import Side, produces, reads
from meristem.grow.parts.zero_side import tables
from meristem.grow.zero_fan_out import ZeroFanOut
from meristem.signals import View


@dataclass(frozen=True)
class SWE(Method):
    """The shared weights extender: a trained tensor T moves weights from every incumbent to every newborn.

    Chatzis, Kordonis, Theodosis, Maragos, arXiv 2509.18842, and its published code. Newborns j start with fan-in and
    bias `U(-1/sqrt(I), 1/sqrt(I))`, I the number of weights of one unit, and zero fan-out. Then

        w~_i = w_i - sum_j T_ji        w~_j = w_j + sum_i T_ji

    with `T ~ 1e-4 N(0, 1)` of shape (newborns, incumbents, I + 1) is trained by Adam, together with the weights that
    read the axis, while all others rest; and the effective weights w~ are kept. Of several axes the last one grows
    first, each in an edit of its own. `sum_i w~_i + sum_j w~_j` does not
    depend on T.

    T has as many entries as newborns times the layer. With a `rank` it is `T_ji = sum_r P_jr Q_ri`, which has rank
    times those of the layer.

    Attributes:
        steps: of Adam, each of which evaluates the loss once (default 100; the paper trains for one epoch).
        rank: of T between newborns and the rest; None (the default): T in full.
        readers: whether the weights that read the axis are trained along, as in the paper (default True). Biases next
            to them stay: the edit does not hold them.
        learning_rate, weight_decay: of Adam (defaults 0.001 and 0.0001, as published).
        scale: the standard deviation of T at first (default 1e-4).

    Preserved: at T = 0 the function; after training, the sum of the units' fan-in. No gains are predicted.
    Fails: T is fitted to few batches. Behind BatchNorm in train mode newborns are normalised at once; the published
    code holds it in eval mode.

    Raises:
        ConfigError: a setting is out of its range; or no closure was given (when it proposes).
        SignalError: (when it proposes) the loss or its gradient is not finite.
    """

    requires_closure: ClassVar[bool] = True
    one_axis_at_a_time: ClassVar[bool] = True

    steps: int = 100
    rank: int | None = None
    readers: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    scale: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and (self.rank is None or self.rank >= 1) and self.learning_rate > 0):
            raise ConfigError(f"expected steps >= 0, rank >= 1 or None, and learning_rate > 0, got {self!r}")
        if not (self.weight_decay >= 0 and self.scale >= 0):
            raise ConfigError(f"expected weight_decay >= 0 and scale >= 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
        if not any(Role.PRODUCES in found for found in roles):
            return "no weights produce it, so there are none that newborns could take over"
        if not any(Role.READS in found for found in roles):
            return "no weights read it, so newborns would be seen before anything is trained"
        if any({Role.PRODUCES, Role.READS} <= found for found in roles):
            return "one tensor both produces and reads it, so that its fan-out cannot be zero while its fan-in is not"
        return None

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        require_closure(view)
        view = reseeded(view, axis)
        shared = Shared(view, axis, count, self)
        gather = Gather.grow(axis.size, count)
        with trial(view.axes, [Change(axis, gather, ZeroFanOut())], seed_of(view, axis)) as tried:
            shared.train(tried, self)
            values = tables(view, Growth(axis, gather, ZeroFanOut()))
        trained = bool(self.steps or self.scale)
        reasons = ("weights moved from incumbents to newborns",) if trained else ()
        return Growth(axis, gather, shared.start(repr(self), values, reasons))


class Shared:
    """What is trained, and the weights that follow from it."""

    def __init__(self, view: View, axis: Axis, count: int, settings: SWE) -> None:
        self._view, self._axis = view, axis
        self._gathered = Gathered(view.axes, axis, Gather.grow(axis.size, count))
        self._into, self._out = Side.of(view, axis, _shared), Side.of(view, axis, reads)
        dtype, device = self._into.vectors().dtype, self._into.device
        weights = Side.of(view, axis, produces).width
        bound = 1 / math.sqrt(weights)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=view.generator).to(device, dtype)

        uniform = 2 * torch.rand(count, self._into.width, dtype=torch.float64, generator=view.generator) - 1
        self._newborn = (uniform * bound).to(device, dtype)
        rank = count if settings.rank is None else settings.rank
        self._q = (normal(rank, axis.size, self._into.width) * settings.scale).requires_grad_()
        p = (
            torch.eye(count, dtype=dtype, device=device)
            if settings.rank is None
            else normal(count, rank) / math.sqrt(rank)
        )
        self._p = p.requires_grad_(settings.rank is not None)
        before = self._out.vectors()
        self._read = torch.cat([before, before.new_zeros(count, self._out.width)])
        self._reading = self._read.clone().requires_grad_(settings.readers)

    @property
    def leaves(self) -> list[Tensor]:
        """What is trained."""
        return [leaf for leaf in (self._q, self._p, self._reading) if leaf.requires_grad]

    def train(self, tried: Trial, settings: SWE) -> None:
        """Train everything that is trained."""
        leaves = self.leaves
        adam = torch.optim.Adam(leaves, settings.learning_rate, weight_decay=settings.weight_decay)
        for _ in range(settings.steps):
            with torch.enable_grad():
                tensors = self.tensors()
            for leaf, gradient in zip(leaves, pulled_back(self._view, tried, tensors, leaves), strict=True):
                leaf.grad = gradient
            adam.step()

    def start(self, name: str, values: Mapping[tuple[str, int], Tensor], reasons: tuple[str, ...]) -> Moved:
        """What newborns start from, and how incumbents move."""
        n = self._axis.size
        with torch.no_grad():
            moved = self._moved()
            moved[n:] = 0
            read = self._reading - self._read
            read[n:] = 0
            shifts = _sum(self._laid(self._into, moved), self._laid(self._out, read) if bool(read.any()) else {})
            new = self._into.tables(self._moved()[n:]) | self._out.tables(self._reading[n:].detach())
        return Moved(name, shifts, Explicit(name, {**values, **new}), reasons)

    def _moved(self) -> Tensor:
        """By how much fan-in changes from what stood: shape (incumbents and newborns, fan-in). Differentiable."""
        old = -torch.einsum("jr,riw->iw", self._p, self._q)
        new = self._newborn + self._p @ self._q.sum(1)
        return torch.cat([old, new])

    def tensors(self) -> dict[str, Tensor]:
        """The weights on both sides. Differentiable."""
        changes = _sum(self._laid(self._into, self._moved()), self._laid(self._out, self._reading - self._read))
        layouts, today = self._view.axes.layouts, self._view.tensors
        return {n: self._gathered.moved(layouts[n], wide(today[n])) + change for n, change in changes.items()}

    def _laid(self, side: Side, vectors: Tensor) -> dict[str, Tensor]:
        return side.laid(self._gathered, vectors, torch.arange(len(vectors)))


def _shared(place: Place) -> bool:
    """Weights that produce the axis, and biases."""
    return produces(place) or (place.roles == {Role.CARRIES} and place.layout.neutral == 0.0)


def _sum(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(first)
    for name, tensor in second.items():
        found[name] = found[name] + tensor if name in found else tensor
    return found
