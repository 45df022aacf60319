"""How active the units of an axis are, and how much gradient reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.signals.ear import Channels, Sensed, Sensor
from meristem.signals.precision import wide
from meristem.signals.sites import obstacle
from meristem.signals.weight_gradients import Slices, slice_norms


def activation_frequency(h: Tensor, threshold: float = 0.05) -> Tensor:
    """The share of samples and positions with `|h| > threshold`.

    Lillo, Cheney, "On the Stability of Growth in Structural Plasticity", arXiv 2605.15435, for activation functions
    that are not negative; the absolute value serves all others.

    Args:
        h: what is read of the units, shape (samples, units, ...): positions last.
        threshold: the paper's 0.05.

    Returns:
        float64, shape (units,).
    """
    return _sums(h, threshold, 1)[0].double() / (h.numel() // h.shape[1])


def gradient_size(delta: Tensor) -> Tensor:
    """The mean of `|dL/dz|` over samples and positions.

    Args:
        delta: the gradient of the loss with respect to pre-activations, shape (samples, units, ...): positions last.

    Returns:
        float64, shape (units,).
    """
    return _total(delta, 1).double() / (delta.numel() // delta.shape[1])


@dataclass(frozen=True, eq=False)
class Activity:
    """The result of `UnitActivity`: one number per unit, float64, shape (axis.size,).

    Attributes:
        frequency: the share of samples and positions with `|h| > threshold`; h is what the first reader reads.
        size: the mean of `|h|`.
        gradient: the mean of `|dL/dz|`; z is what the weights that produce the units give, before normalizations and
            activation functions.
        fan_in_gradient, fan_out_gradient: the Euclidean norms of the gradients of the weights that produce each unit
            (without biases) and of those that read it.

    Gradients are those of the loss on which `backward` was called, for a mean over samples with its `1 / samples` in
    them: summed over the passes of a step, averaged over recorded steps. Over ranks `gradient` is averaged, and
    gradients of weights are summed before the norm.
    """

    frequency: Tensor
    size: Tensor
    gradient: Tensor
    fan_in_gradient: Tensor
    fan_out_gradient: Tensor


@dataclass(frozen=True, eq=False)
class ActivitySums:
    """The result of `StepActivity`: that of `UnitActivity` before anything is divided or a root is taken.

    Attributes:
        rows: how many samples and positions there were.
        sums: shape (2, units): `|h| > threshold` and `|h|`, summed over them.
        gradient: as in `Activity`.
        fan_in_squares, fan_out_squares: of the norms of gradients, in float32 or better.
    """

    rows: float
    sums: Tensor
    gradient: Tensor
    fan_in_squares: Tensor
    fan_out_squares: Tensor


@dataclass(frozen=True)
class UnitActivity(Sensed):
    """How often and how strongly units are active, and how much gradient reaches them and their weights.

    Exact, whatever stands between producers and readers: gradients of pre-activations are those that the backward pass
    itself brings. Where a producer and all before it are frozen, the backward
    pass ends at its readers, and its gradients count as zero.

    Attributes:
        threshold: from where on a unit counts as active, at least 0. Default 0.05, as in arXiv 2605.15435.

    Raises:
        ConfigError: the threshold is negative or not finite.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not (self.threshold >= 0 and isfinite(self.threshold)):
            raise ConfigError(f"UnitActivity(threshold=...) must be at least 0 and finite, got {self.threshold!r}")

    def sensor(self, axes: AxisMap) -> Sensor:
        return _Accumulator((axes, axes.by_name[self.axis]), threshold=self.threshold)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis)


@dataclass(frozen=True)
class StepActivity(UnitActivity):
    """As `UnitActivity`, of one optimizer step and one rank alone, for less time and memory.

    Gradients of weights are read where backward passes leave them, in `.grad`: what has been accumulated when the last
    pass of the step is over, before it is clipped. What was in `.grad` before the step counts too, if it was not
    zeroed. Over several steps or ranks it means nothing. Its result are `ActivitySums`, so that who has many axes can
    divide them all at once.
    """

    def sensor(self, axes: AxisMap) -> Sensor:
        return _OfStep((axes, axes.by_name[self.axis]), threshold=self.threshold)


@dataclass(eq=False)
class _Heard(Sensor):
    """What both have in common."""

    kept: ClassVar[tuple[str, ...]] = ("sums", "gradient", "rows", "closed", "overflowed")

    threshold: float = 0.0
    sums: Tensor | None = None
    """Shape (2, units): `|h| > threshold`, `|h|`, summed over rows."""
    gradient: Tensor | None = None
    """`|dL/dz|`, averaged over rows, summed over passes."""
    rows: float = 0.0
    closed: bool = False
    """Whether there is a finite pass in the closing step."""

    def restart(self) -> None:
        super().restart()
        self.sums = self.gradient = None
        self.rows, self.closed = 0.0, False

    def memory(self) -> dict[str, Any]:
        self._add_up()
        return super().memory()

    def reads(self, x: Tensor, dim: int, channels: Channels) -> tuple[Tensor, int]:
        rows = x.numel() // x.shape[dim] * channels.each
        return channels.sums(_sums(x, self.threshold, dim)), rows

    def gives(self, gradient: Tensor, dim: int, channels: Channels) -> Tensor:
        rows = gradient.numel() // gradient.shape[dim] * channels.each
        return channels.sums(_total(gradient, dim)) / rows

    def heard(self, closing: bool) -> bool:
        self._add_up()
        return self.closed if closing else self.sums is not None

    def _add_up(self) -> None:
        """Take in what the passes so far gave, but for those that overflowed."""
        passes, self.passes = self.passes, []
        for found in passes:
            if found.read is None:  # no reader of the axis was called
                continue
            sums, rows = found.read
            given = sums.new_zeros(sums.shape[1]) if found.given is None else found.given
            given = given / found.called if found.called > 1 else given
            if not _finite(given):
                self.overflowed = True
                continue
            self.closed |= found.closing
            self.rows += rows
            if self.sums is None or self.gradient is None:
                self.sums, self.gradient = sums, given
            else:
                self.sums, self.gradient = self.sums.double() + sums, self.gradient.double() + given


@dataclass(eq=False)
class _Accumulator(_Heard):
    kept: ClassVar[tuple[str, ...]] = (*_Heard.kept, "gradients")

    counts: Tensor | None = None
    """Rows and ranks, of all ranks."""
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """By weight, summed over passes."""

    def restart(self) -> None:
        super().restart()
        self.counts, self.gradients = None, {}

    def learn(self, weight: str, gradient: Tensor) -> None:
        held = self.gradients.get(weight)
        if held is None or not _finite(held):
            self.gradients[weight] = gradient
        elif _finite(gradient):  # of passes that overflowed nothing is kept
            self.gradients[weight] = held + gradient

    def parts(self) -> Sequence[Tensor]:
        self._add_up()
        if self.sums is None or self.gradient is None:
            return ()
        self.counts = torch.tensor([self.rows, 1.0], dtype=torch.float64, device=self.sums.device)
        self.gradients = {name: gradient.clone() for name, gradient in sorted(self.gradients.items())}
        self.sums, self.gradient = self.sums.double(), self.gradient.double()
        return (self.sums, self.gradient, self.counts, *self.gradients.values())

    def result(self) -> Activity:
        self._add_up()
        assert self.sums is not None
        assert self.gradient is not None
        rows, ranks = (self.rows, 1.0) if self.counts is None else self.counts.tolist()
        frequency, size = self.sums.double() / rows
        into, out = (slice_norms(self.gradients, *self.site, role) for role in (Role.PRODUCES, Role.READS))
        return Activity(frequency, size, self.gradient.double() / ranks, into.to(size.device), out.to(size.device))


@dataclass(eq=False)
class _OfStep(_Heard):
    late: ClassVar[bool] = True

    squares: dict[tuple[str, Role], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes, axis = self.site
        found = dict.fromkeys((place.layout.name, role) for place in axes.places[axis.index] for role in place.roles)
        self._slices: dict[str, list[tuple[Role, Slices]]] = {}
        for weight, role in found:
            self._slices.setdefault(weight, []).append((role, Slices(axes, axis, role, weight)))

    def restart(self) -> None:
        super().restart()
        self.squares = {}

    def learn(self, weight: str, gradient: Tensor) -> None:
        for role, slices in self._slices[weight]:
            self.squares[weight, role] = slices.squares({weight: gradient})

    def result(self) -> ActivitySums:
        self._add_up()
        assert self.sums is not None
        assert self.gradient is not None
        return ActivitySums(
            self.rows, self.sums, self.gradient, self._squares(Role.PRODUCES), self._squares(Role.READS)
        )

    def _squares(self, role: Role) -> Tensor:
        found = [squares for (_, of), squares in self.squares.items() if of is role]
        if len(found) < 2:
            return found[0] if found else torch.zeros(self.site[1].size)
        return torch.stack(found).sum(0, dtype=torch.float64)


def _sums(h: Tensor, threshold: float, dim: int) -> Tensor:
    """`|h| > threshold` and `|h|` summed over all dimensions but one, float32 or better: shape (2, h.shape[dim])."""
    size = h.abs()
    total = _sum(size, dim)
    return torch.stack([_sum(size.gt_(threshold), dim), total])


def _total(x: Tensor, dim: int) -> Tensor:
    """`|x|` summed over all dimensions but one, float32 or better: shape (x.shape[dim],)."""
    return _sum(x.abs(), dim)


def _sum(x: Tensor, dim: int) -> Tensor:
    others = [other for other in range(x.dim()) if other != dim]
    return x.sum(others) if x.dtype is torch.float32 else x.sum(others, dtype=wide(x))


def _finite(x: Tensor) -> bool:
    return isfinite(x.sum(dtype=torch.float32).item())
