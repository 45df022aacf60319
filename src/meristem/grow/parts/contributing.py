"""Newborns that contribute at once: pairs of fan-in and fan-out, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.expression import gather_index
from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Explicit, Gather
from meristem.edit.compute import widened
from meristem.grow.parts.between import batch_norms
from meristem.signals import Found, Move, View, entries, unit_norms


@dataclass(frozen=True, eq=False)
class Contributing(Explicit):
    """Newborns that contribute with this factor."""

    amplitude: float = field(kw_only=True)

    def __repr__(self) -> str:
        return f"{self.name} at amplitude {self.amplitude:.3g}"


@dataclass(frozen=True, eq=False)
class Pairs:
    """What newborns may be made of.

    Attributes:
        found: their directions; they contribute singular value times amplitude.
        most: but not more than this, shape (newborns,).
    """

    found: Found
    most: Tensor

    def first(self, count: int) -> Pairs:
        """The first of them."""
        return Pairs(self.found.first(count), self.most[:count])

    @property
    def largest(self) -> float:
        """The amplitude above which none contributes more; there must be at least one."""
        return float((self.most / self.found.values).max())

    def contributions(self, amplitude: float) -> Tensor:
        """By how much they move what readers give, in float64; shape (newborns,)."""
        return torch.minimum(amplitude * self.found.values, self.most)

    def gains(self, amplitude: float) -> Tensor:
        """Minus the derivative of the loss in a factor on what each contributes, times what it does; on the CPU."""
        return (-self.found.slopes * self.contributions(amplitude)).cpu()

    def entries(self, view: View, axis: Axis, amplitude: float) -> dict[tuple[str, int], Tensor]:
        """The values of newborns at an amplitude. Batch normalizations do nothing to them on the recorded batch."""
        found, contribution = self.found, self.contributions(amplitude)
        size = _fan_in_size(view, axis, found.incoming, contribution)
        values = entries(found.fan_in, found.incoming * size[:, None])
        values |= entries(found.fan_out, -found.outgoing * (contribution / size)[:, None])
        for norm in batch_norms(view.axes, axis):
            assert found.mean is not None
            assert found.variance is not None
            mean, variance = found.mean * size[:, None], found.variance * size[:, None] ** 2
            made = {
                norm.weight: (variance + norm.eps).sqrt(), norm.bias: mean, norm.mean: mean, norm.variance: variance
            }  # fmt: skip
            values |= {(name, 0): entry for name, entry in made.items() if name is not None}
        return values


def moves(move: Move, axes: AxisMap, axis: Axis, gather: Gather, amplitude: float) -> dict[str, Tensor]:
    """The reader's own move, in its shape after the edit."""
    delta = move.laid_out
    for dim, expression in enumerate(axes.layouts[move.weight].dims):
        delta = widened(delta, dim, gather_index(expression, {axis.index: gather.index}, axes.sizes))
    found = {move.weight: amplitude * delta}
    return found if move.bias is None else {**found, move.bias: amplitude * move.delta_bias}


def _fan_in_size(view: View, axis: Axis, incoming: Tensor, contribution: Tensor) -> Tensor:
    """By what fan-in is multiplied: to the incumbents' mean norm where that changes nothing, else its equal share."""
    norm = float(unit_norms(view, axis, Role.PRODUCES).mean())
    if norm > 0 and all(path.homogeneous for path in view.axes.paths[axis.index]):
        return norm / incoming.norm(dim=1)
    return contribution.sqrt()
