"""Random growth: newborns read and are read at random, at a given share of the incumbents' size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Explicit, Gather
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.counterparts import answering, products_kept
from meristem.grow.parts.drawn import drawn, meets_itself, slice_shape, weights
from meristem.signals import View

NUDGE = 1e-6
"""The bias of newborns that read nothing: keeps them off the kink of ReLU, whose derivative at 0 is 0."""


@dataclass(frozen=True)
class Random(Method):
    """Each newborn's slices are random and rescaled to a share of the mean norm of the incumbents' slices.

    The baselines of Evci et al., "GradMax", ICLR 2022, arXiv 2201.05125, as in its published code: the fan-in slice of
    a newborn has the norm `fan_in * mean_i ||W[i]||` and its fan-out slice `fan_out * mean_i ||W[:, i]||`, in every
    tensor on its own; carried scales start at 1, biases at 0, depthwise kernels at random. With `fan_in=0` the biases
    of newborns are 1e-6, with both 0 they are 1 (as published): the derivative of `torch.relu` at 0 is 0, so a newborn
    whose pre-activation is exactly 0 would never learn. A dimension that both produces and reads (tied weights) gets
    fan-out entries, and so does one factor of a product over the axis (the keys, for queries). The baseline to prefer
    is `ZeroFanOut`, which changes no function.

    Preserved: with `fan_out=0` the function, on axes without couplings or with products alone, and every incumbent's
    gradient. With `fan_in=0` the function up to `1e-6 * ||fan-out||`, if nothing scales products. With both at work
    nothing is preserved, which is the default.
    Fails: with `fan_in=0` behind BatchNorm in train mode: a constant has no variance to divide by, so that the first
    gradients are about `1/sqrt(eps)` = 316 times too large.

    Args:
        fan_in, fan_out: shares of the incumbents' mean norm, at least 0.

    Raises:
        ConfigError: a share is negative.
        EditError: (from the controller) `fan_in=0` for an axis without biases: its newborns might never learn; or
            behind weights that are divided by the norm of each unit's slice, for which zeros are 0 / 0.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0

    def __post_init__(self) -> None:
        if not (self.fan_in >= 0 and self.fan_out >= 0):
            raise ConfigError(f"Random: shares must be at least 0, got fan_in={self.fan_in}, fan_out={self.fan_out}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        if not self.fan_in and Role.PRODUCES in axis.nonlinear:
            return "weights that produce it are not linear in its slices (a norm of each, say), which fan_in=0 needs"
        if self.fan_in or any(_is_bias(place) for place in axes.places[axis.index]):
            return meets_itself(axes, axis)
        return "with fan_in=0 newborns need a bias to be off the kink of ReLU, and it has none"

    def zero_side(self) -> Role | None:
        return Role.READS if not self.fan_out else None if self.fan_in else Role.PRODUCES

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        entries = {(p.layout.name, p.dim): values for p, values in self._entries(view, axis, count)}
        start = Explicit(repr(self), entries, self._reasons(axis))
        return Growth(axis, Gather.grow(axis.size, count), start if self.fan_out else products_kept(axis, start))

    def _entries(self, view: View, axis: Axis, count: int) -> Iterator[tuple[Place, Tensor]]:
        for place in weights(view, axis):
            if Role.READS in place.roles:
                yield place, drawn(view, axis, place, count, self.fan_out)
            elif Role.PRODUCES in place.roles:
                yield place, self._produced(view, axis, place, count)
            elif _is_bias(place) and not self.fan_in:
                bias = NUDGE if self.fan_out else 1.0
                shape = (count, *slice_shape(view, axis, place))
                made = torch.full(shape, bias, dtype=torch.float64)
                mask = answering(view.axes, axis, place)
                yield place, made if mask is None else made.masked_fill(mask.reshape(_over(made)), 0)

    def _produced(self, view: View, axis: Axis, place: Place, count: int) -> Tensor:
        """Fan-in; for the counterpart of the axis, which acts as fan-out does, fan-out."""
        made, mask = drawn(view, axis, place, count, self.fan_in), answering(view.axes, axis, place)
        if mask is None:
            return made
        return torch.where(mask.reshape(_over(made)), drawn(view, axis, place, count, self.fan_out), made)

    def _reasons(self, axis: Axis) -> tuple[str, ...]:
        couplings = sorted(coupling.value for coupling in (axis.couplings if self.fan_out else axis.unsettled))
        if not self.fan_out:
            return tuple(couplings)
        what = "random fan-out" if self.fan_in else f"a bias of {NUDGE} is read at random"
        return (what, *couplings)


def _over(table: Tensor) -> tuple[int, ...]:
    """The shape in which what holds for indices of one unit meets a table."""
    return (-1, *(1,) * (table.dim() - 2))


def _is_bias(place: Place) -> bool:
    """Whether a place holds something that is added to each unit."""
    return not place.layout.buffer and place.roles == {Role.CARRIES} and place.layout.neutral == 0.0
