"""How active the units of an axis are, and how much gradient reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.signals.batch import Arrival, Batch
from meristem.signals.convolve import weight_gradient
from meristem.signals.sites import obstacle
from meristem.signals.statistic import Accumulator, Statistic


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
    return _mean((h.abs() > threshold).double())


def gradient_size(delta: Tensor) -> Tensor:
    """The mean of `|dL/dz|` over samples and positions.

    Args:
        delta: the gradient of the loss with respect to pre-activations, shape (samples, units, ...): positions last.

    Returns:
        float64, shape (units,).
    """
    return _mean(delta.abs().double())


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


@dataclass(frozen=True)
class UnitActivity(Statistic):
    """How often and how strongly units are active, and how much gradient reaches them and their weights.

    Exact, whatever stands between producers and readers: gradients of pre-activations are those that the backward pass
    itself brings. Adds one hook on each call of a producer. Where a producer and all before it are frozen, the backward
    pass ends at its readers, and its gradients count as zero.

    Attributes:
        threshold: from where on a unit counts as active, at least 0. Default 0.05, as in arXiv 2605.15435.

    Raises:
        ConfigError: the threshold is negative or not finite.
    """

    backwards: ClassVar[bool] = True

    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not (self.threshold >= 0 and isfinite(self.threshold)):
            raise ConfigError(f"UnitActivity(threshold=...) must be at least 0 and finite, got {self.threshold!r}")

    def accumulator(self) -> Accumulator:
        return _Accumulator(self.threshold)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis)


@dataclass(eq=False)
class _Accumulator(Accumulator):
    threshold: float
    active: Tensor | None = None
    """Shape (2, units): `|h| > threshold`, `|h|`, summed over rows."""
    gradient: Tensor | None = None
    """`|dL/dz|`, averaged over rows, summed over passes."""
    counts: Tensor | None = None
    """Rows, and ranks."""
    fan_in: dict[str, Tensor] = field(default_factory=dict)
    fan_out: dict[str, Tensor] = field(default_factory=dict)
    """Gradients by weight, shape (units, entries)."""

    def add(self, batch: Batch, closing: bool) -> None:
        h = batch.activations
        active = len(h) * torch.stack([activation_frequency(h, self.threshold), gradient_size(h)])
        producers = {a.path.producer: a for a in batch.arrivals}
        given = {end: _given(a) for end, a in producers.items()}
        gradient = torch.stack([gradient_size(g) for g in given.values()]).mean(0)
        if self.active is None or self.gradient is None or self.counts is None:
            self.counts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=h.device)
            self.active, self.gradient = torch.zeros_like(active), torch.zeros_like(gradient)
        self.active += active
        self.gradient += gradient
        self.counts[0] += len(h)
        for end, a in producers.items():
            x = a.x.to(batch.dtype)
            _add(self.fan_in, end.weight, weight_gradient(a.producer, x, given[end].to(batch.dtype)).flatten(1))
        for end, a in {a.path.consumer: a for a in batch.arrivals}.items():
            _add(self.fan_out, end.weight, _fan_out_gradient(a, batch))

    def parts(self) -> Sequence[Tensor]:
        if self.active is None or self.gradient is None or self.counts is None:
            return ()
        return (self.active, self.gradient, self.counts, *self.fan_in.values(), *self.fan_out.values())

    def result(self) -> Activity:
        assert self.active is not None
        assert self.gradient is not None
        assert self.counts is not None
        frequency, size = self.active / self.counts[0]
        return Activity(frequency, size, self.gradient / self.counts[1], _norms(self.fan_in), _norms(self.fan_out))


def _given(a: Arrival) -> Tensor:
    """The gradient of what the producer gave of the axis' units: (samples, units, *positions)."""
    if a.given is not None:
        return a.given.index_select(1, a.channels.to(a.given.device))
    return a.x.new_zeros(len(a.x), len(a.channels), *a.producer.outputs(a.x.shape[2:]))


def _fan_out_gradient(a: Arrival, batch: Batch) -> Tensor:
    """The gradient of the consumer's weight towards the axis' units: (units, entries)."""
    reads = a.reads.index_select(1, a.columns.to(a.reads.device)).to(batch.dtype)
    delta = a.delta.to(batch.dtype)
    found = weight_gradient(a.reader, reads, delta if a.reader.kernel else delta.flatten(1))
    by_unit = found.movedim(1, 0)
    return by_unit.reshape(len(by_unit) // max(a.positions, 1), -1)


def _add(total: dict[str, Tensor], weight: str, found: Tensor) -> None:
    total[weight] = total[weight] + found if weight in total else found


def _norms(gradients: dict[str, Tensor]) -> Tensor:
    squares = [gradient.double().square().sum(1) for gradient in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


def _mean(x: Tensor) -> Tensor:
    return x.movedim(1, 0).flatten(1).mean(1)
