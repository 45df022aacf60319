"""Mitosis: the units that carry the most gradient divide in two, so that newborns are not starved of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Gather
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import Net2Wider, no_fan_out_to_divide
from meristem.grow.parts.drawn import slice_shape
from meristem.grow.parts.zero_sum import ZeroSum
from meristem.signals import FanInGradient, Statistic, View, index_norms, sum_by_unit


@dataclass(frozen=True)
class Mitosis(Method):
    """The busiest unit becomes two equal ones that share its fan-out v as `v / 2 + u` and `v / 2 - u`.

    meristem's own answer to newborns that are forward-active but backward-starved (measured by Lillo, Cheney, arXiv
    2605.15435): there newborns have random fan-out, to which no gradient is aligned. Here

        parents:   one after the other the unit with the largest  |dL/dW_in| / r,  r = copies of it so far
        fan-in:    W'[j] = W[g(j)], carried entries too
        fan-out:   W'[:, j] = v / r + u_j,  sum of u_j over the r copies = 0,  E|u_j|^2 = kick^2 (1 - 1 / r^2) |v|^2

    with u random, so that with `kick=1` every copy keeps the norm of its parent's fan-out. A newborn and its parent are
    alike up to the sign of u: neither starves more than the other, at birth or later. A parent's gradient is divided by
    r, so dividing the largest ones leaves newborns at about the mean of all. The copies' fan-out differs, so they get
    different gradients at once and part, under any optimizer.

    Preserved: the function, to rounding, in train and eval mode, on axes without couplings (behind BatchNorm too).
    Optimizer state of fan-in is divided by r, as for Net2Wider, which leaves the share of u in the gradient out.
    Fails: newborns know nothing new at birth; where all units do the same, dividing adds little. A large kick adds to
    the gradient of everything before the axis; where an axis grows many-fold the fan-out norms of all copies add up,
    and training may diverge, for a while under Adam (32-fold on a table of 13 columns did), for good under momentum
    without normalization (4-fold in a small VGG, two seeds of five): take a kick of 0.25 to 0.5 there.

    Args:
        kick: the size of u, above 0 and at most 1 (default); above 1 norms would grow with every division.

    Raises:
        ConfigError: the kick is out of its range.
        EditError: (from the controller) no weights produce the axis, or it has no fan-out to divide.
    """

    kick: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.kick <= 1:
            raise ConfigError(f"Mitosis(kick=...) must be above 0 and at most 1, got {self.kick!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        places = [p for p in axes.places[axis.index] if Role.PRODUCES in p.roles and not p.layout.buffer]
        if not any(axes.model.get_parameter(place.layout.name).requires_grad for place in places):
            which = f"{places[0].layout.name} has requires_grad=False" if places else "no weights produce it"
            return f"{which}, so there is no gradient by which to choose parents"
        return no_fan_out_to_divide(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (FanInGradient(axis.name),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        gather = Gather.duplicate(axis.size, busiest(view.recorded(FanInGradient(axis.name)), count))
        copies = torch.bincount(gather.index, minlength=axis.size)[gather.index].double()

        def deviations(place: Place) -> Tensor:
            squares = sum_by_unit(index_norms(view.tensors[place.layout.name], place.dim, 2), view.axes, axis, place)
            mean_square = squares.double().cpu() / math.prod(slice_shape(view, axis, place))
            return self.kick * (mean_square[gather.index] * (1 + 1 / copies)).sqrt()

        return Growth(axis, gather, ZeroSum.drawn(view, axis, gather, Net2Wider(), deviations))


def busiest(gradients: Tensor, count: int) -> list[int]:
    """The parents of so many newborns: each time the unit whose gradient, shared among its copies, is the largest.

    Args:
        gradients: the size of every unit's gradient, shape (units,).
        count: how many newborns.
    """
    shares = gradients.detach().to("cpu", torch.float64).clone()
    copies = torch.ones_like(shares)
    parents: list[int] = []
    for _ in range(count):
        parent = int((shares / copies).argmax())
        copies[parent] += 1
        parents.append(parent)
    return parents
