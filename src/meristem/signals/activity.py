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
from meristem.signals.channels import Channels
from meristem.signals.ends import unheard
from meristem.signals.precision import wide
from meristem.signals.sensor import Sensed, Sensor
from meristem.signals.weight_gradients import in_step, slice_norms


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
        frequency: the share of samples and positions with `|h| > threshold`; h is what the first reader reads, in all
            its calls.
        size: the mean of `|h|`.
        gradient: the mean of `|dL/dz|`; z is what the weights that produce the units give, in all their calls, before
            normalizations and activation functions.
        fan_in_gradient, fan_out_gradient: the Euclidean norms of the gradients of the weights that produce each unit
            (without biases) and of those that read it.

    Means are over all samples and positions of all calls, passes, steps and ranks, and all channels that a unit has, as
    those of a head. Gradients are those of the loss on
    which `backward` was called, for a mean over samples with its `1 / samples` in them, so that `gradient` falls as
    batches grow; gradients of weights are summed over passes and ranks and averaged over steps before the norm.
    """

    frequency: Tensor
    size: Tensor
    gradient: Tensor
    fan_in_gradient: Tensor
    fan_out_gradient: Tensor


@dataclass(frozen=True)
class UnitActivity(Sensed):
    """How often and how strongly units are active, and how much gradient reaches them and their weights.

    Exact, whatever stands between producers and readers (gates, attention, depthwise convolutions, norms), as long as
    these are linear maps and convolutions: gradients of pre-activations are those that the backward pass itself brings.
    Where a producer and all before it are frozen, the backward pass ends at its readers, and its gradients count as
    zero. If `backward` is called several times through one graph (`retain_graph=True`), sizes of gradients of
    pre-activations add up call by call, which may be more than the size of their sum: add the losses up and call it
    once. Gradients of weights are exact.

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
        return unheard(axes, axis)


@dataclass(eq=False)
class Heard(Sensor):
    """Sums of one axis, without gradients of weights."""

    kept: ClassVar[tuple[str, ...]] = ("sums", "read_rows", "gradient", "given_rows", "closed", "overflowed")

    threshold: float = 0.0
    sums: Tensor | None = None
    """Shape (2, units): `|h| > threshold`, `|h|`, summed over rows."""
    read_rows: int = 0
    gradient: Tensor | None = None
    """`|dL/dz|`, summed over rows."""
    given_rows: int = 0
    closed: bool = False
    """Whether there is a finite pass in the closing step."""

    def restart(self) -> None:
        super().restart()
        self.sums = self.gradient = None
        self.read_rows, self.given_rows, self.closed = 0, 0, False

    def memory(self) -> dict[str, Any]:
        self._add_up()
        return super().memory()

    def reads(self, x: Tensor, dim: int, channels: Channels) -> Tensor:
        return channels.sums(_sums(x, self.threshold, dim))

    def gives(self, gradient: Tensor, dim: int, channels: Channels) -> Tensor:
        return channels.sums(_total(gradient, dim))

    def heard(self, closing: bool) -> bool:
        self._add_up()
        return self.closed if closing else self.sums is not None

    def _add_up(self) -> None:
        """Take in what the passes so far gave, but for those that overflowed."""
        passes, self.passes = self.passes, []
        for found in passes:
            if found.read is None:  # no reader of the axis was called
                continue
            given = found.read.new_zeros(found.read.shape[1]) if found.given is None else found.given
            if not _finite(given):
                self.overflowed = True
                continue
            self.closed |= found.closing
            self.read_rows += found.read_rows
            self.given_rows += found.given_rows
            if self.sums is None or self.gradient is None:
                self.sums, self.gradient = found.read, given
            else:
                self.sums, self.gradient = self.sums.double() + found.read, self.gradient.double() + given


@dataclass(eq=False)
class _Accumulator(Heard):
    kept: ClassVar[tuple[str, ...]] = (*Heard.kept, "gradients")

    counts: Tensor | None = None
    """Rows read and given, of all ranks."""
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
            self.gradients[weight] = held.to(wide(held)) + gradient

    def parts(self) -> Sequence[Tensor]:
        self._add_up()
        if self.sums is None or self.gradient is None:
            return ()
        self.counts = torch.tensor([self.read_rows, self.given_rows], dtype=torch.float64, device=self.sums.device)
        self.gradients = in_step(self.gradients, self.site[0].model, self.weights(*self.site))
        self.sums, self.gradient = self.sums.double(), self.gradient.double()
        return (self.sums, self.gradient, self.counts, *self.gradients.values())

    def result(self) -> Activity:
        self._add_up()
        assert self.sums is not None
        assert self.gradient is not None
        read, given = (self.read_rows, self.given_rows) if self.counts is None else self.counts.tolist()
        frequency, size = self.sums.double() / read
        gradient = self.gradient.double() / max(given, 1)
        into, out = (slice_norms(self.gradients, *self.site, role) for role in (Role.PRODUCES, Role.READS))
        return Activity(frequency, size, gradient, into.to(size.device), out.to(size.device))


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
