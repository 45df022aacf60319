"""GradMax: newborns that nobody notices and whose gradient is as large as it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Explicit, Gather
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.signals import Directions, Found, Statistic, View, entries, obstacle, unit_norms

WAKE = 1e-6
"""The bias of newborns whose activation function is steeper just above 0 than at exactly 0, as `torch.relu` is."""


@dataclass(frozen=True)
class GradMax(Method):
    """Zero fan-in, and fan-out along the leading left singular vectors of the candidate gradient M.

    Evci, van Merrienboer, Unterthiner, Vladymyrov, Pedregosa, "GradMax", ICLR 2022, arXiv 2201.05125, equations 5 to 8:
    among all orthogonal fan-outs of norm c, `c u_1 ... c u_k` with `M = U S V^T` maximise the gradient of the new
    fan-in weights, `|dL/dW|^2 = c^2 (s_1^2 + ... + s_k^2)`. Where several channels belong to one unit, one of every
    group of a convolution say, M has a block for each, and their fan-outs are of equal size. M is exact at padded
    borders, unlike the auxiliary convolution of the paper, which is off by 19 to 70 % there. The sign of a fan-out does
    not matter to the gradient, but decides on which side of 0 a newborn's activations will lie: it is chosen such that
    behind the activation function the first steps decrease the loss more.

    Attributes:
        scale: c as a share of the incumbents' mean fan-out norm (default 0.5, as in the authors' code).

    Preserved: the function; where the activation function has a smaller derivative at 0 than just above (`torch.relu`,
    leaky ones), a newborn gets the bias 1e-6 if its layer has biases, without which it would get less gradient or none,
    and the function moves by 1e-6 of its fan-out. Numbers that the model learns, such as a scale in front of the
    activation function, are taken as they are when newborns are made; where they make it other than 0 at 0 the plan
    says so. Predicted gain of a newborn: its squared gradient norm `c^2 s_i^2` with the derivative just above 0, the
    decrease of the loss per unit of learning rate. Given are at most as many newborns as M has rank.
    Fails: behind BatchNorm (a zero pre-activation has variance 0), where the activation function is not 0 at 0, and
    where one batch does not show the gradient's direction.

    Raises:
        ConfigError: the scale is not positive.
    """

    gains_per_rate: ClassVar[bool] = True

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ConfigError(f"GradMax(scale=...) must be positive, got {self.scale!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        blocked = obstacle(axes, axis, several=True)
        if blocked is not None:
            return blocked
        for path in axes.paths[axis.index]:
            if path.batch_norms:
                return "batch normalization has no variance to divide by when the fan-in of newborns is zero"
            near = _Near.of(path.activation)
            if near.height != 0:
                return "the activation function is not 0 at 0, so that newborns with zero fan-in would be seen"
            if near.above == 0 and not path.live:  # what the model learns may switch it on
                return "the activation function has derivative 0 around 0"
            if near.slope == 0 and near.above != 0 and path.producer.bias is None:
                return "the activation function has derivative 0 at 0, and no bias could move newborns off it"
        return None

    def zero_side(self) -> Role:
        return Role.PRODUCES

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (Directions(axis.name, count),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found: Found = view.recorded(Directions(axis.name, count))
        given = min(count, len(found))
        size = self.scale * _mean_fan_out(view, axis)
        values = entries(found.fan_out, -size * found.outgoing[:given])
        values |= entries(found.fan_in, torch.zeros_like(found.incoming[:given]))
        near = [(path.producer.bias, _Near.of(path.activation)) for path in view.axes.paths[axis.index]]
        asleep = {bias for bias, found in near if bias and found.asleep}
        for place in [place for place in values if place[0] in asleep]:
            values[place] = torch.full_like(values[place], WAKE)
        reasons = [f"a bias of {WAKE:g} wakes the activation function"] if asleep else []
        heights = {found.height for _, found in near} - {0.0}
        reasons += [f"the activation function is {height:.3g} at 0" for height in sorted(heights)]
        gains = self._gains(found.values, size)[:given]
        note = None if given == count else f"{axis.name}: {given} of {count}, the rank of the candidate gradient"
        start = Explicit(repr(self), values, tuple(reasons))
        gather = Gather.grow(axis.size, given) if given else Gather.keep(axis.size, range(axis.size))
        return Growth(axis, gather, start, tuple(gains.tolist()), note)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        found: Found = view.recorded(Directions(axis.name, count))
        return self._gains(found.values, self.scale * _mean_fan_out(view, axis))[:count]

    def _gains(self, values: Tensor, size: float) -> Tensor:
        return (size * values).square().cpu()


def _mean_fan_out(view: View, axis: Axis) -> float:
    """The incumbents' mean fan-out norm; 1 if all of it is zero."""
    return float(unit_norms(view, axis, Role.READS).mean()) or 1.0


@dataclass(frozen=True)
class _Near:
    """An activation function near 0: its height and slope there, and its slope just above."""

    height: float
    slope: float
    above: float

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> _Near:
        with torch.enable_grad():
            z = torch.tensor([[0.0], [WAKE]], dtype=torch.float64, requires_grad=True)
            value = function(z)
            slopes = torch.autograd.grad(value.sum(), z, materialize_grads=True)[0] if value.requires_grad else 0 * z
        slope, above = slopes.flatten().tolist()
        return cls(float(value.detach()[0]), slope, above)

    @property
    def asleep(self) -> bool:
        """Whether the gradient at 0 is less than it could be just above."""
        return self.slope == 0 or abs(self.slope) < 0.99 * abs(self.above)  # smooth ones differ a little, too
