"""Which units do nothing: what their readers see of them on the test images hardly changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from meristem.axes import Axis, AxisMap, Role
from meristem.signals import index_norms, sum_by_unit
from meristem.train.data import DataSet
from meristem.train.loop import Standardized, evaluate

INACTIVE = 1e-3
"""A unit is inactive if its readers see less of it than this share of what they see of the mean unit of its axis."""


@dataclass(eq=False)
class _Moments:
    """Sums over images and positions of what a module reads, for each of its channels or features; float64."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    peak: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor) -> None:
        """One batch: (n, channels, ...) or (n, features)."""
        rows = x.detach().flatten(2).transpose(1, 2).flatten(0, 1) if x.dim() > 2 else x.detach()
        self.count += len(rows)
        self.total = self.total + rows.sum(0, dtype=torch.float64)
        self.squares = self.squares + rows.double().square().sum(0)
        self.peak = torch.maximum(self.peak.to(rows), rows.abs().amax(0))

    @property
    def variance(self) -> Tensor:
        """Of each channel or feature."""
        mean = self.total / self.count
        return torch.as_tensor(self.squares / self.count - mean * mean).clamp_min(0)


@dataclass(frozen=True)
class Activity:
    """What readers see of the units of one axis, on the test images.

    Attributes:
        seen: for each unit the root of the sum over its readers' weights of `variance of its activation * weight ** 2`,
            in units of the root mean square over the axis; shape (axis.size,).
        silent: whether its activation is zero on all test images, at all positions; bool, shape (axis.size,).
    """

    seen: Tensor
    silent: Tensor

    @property
    def inactive(self) -> Tensor:
        """Whether readers see next to nothing of it: it is silent or constant, or its fan-out is next to zero. Units of
        a net that has diverged count as inactive."""
        return ~(self.seen >= INACTIVE)


def activities(axes: AxisMap, names: list[str], inputs: Standardized, data: DataSet) -> dict[str, Activity]:
    """The activity of every unit of some axes, in eval mode, by axis name."""
    with _listening(axes.model) as heard:
        evaluate(axes.model, inputs, data)
    return {name: _activity(axes, axes.by_name[name], heard) for name in names}


def _activity(axes: AxisMap, axis: Axis, heard: dict[str, _Moments]) -> Activity:
    power, peaks = torch.zeros(axis.size, dtype=torch.float64), torch.zeros(axis.size, dtype=torch.float64)
    for place in axes.places[axis.index]:
        module = place.layout.name.rpartition(".")[0]
        if Role.READS in place.roles and module in heard:
            weight, moments = axes.model.get_parameter(place.layout.name).detach(), heard[module]
            norms = index_norms(weight, place.dim, 2).double()
            power += sum_by_unit((moments.variance * norms).cpu(), axes, axis, place)
            peaks += sum_by_unit(moments.peak.cpu().double(), axes, axis, place)
    return Activity((power / power.mean().clamp_min(1e-300)).sqrt(), peaks == 0)


@contextmanager
def _listening(model: nn.Module) -> Iterator[dict[str, _Moments]]:
    """What every convolution and linear layer reads, by module name."""
    readers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    heard = {name: _Moments() for name in readers}
    hooks = [m.register_forward_pre_hook(lambda _, args, n=n: heard[n].add(args[0])) for n, m in readers.items()]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
