"""Newborns in pairs that read the same and are read with opposite signs: nothing is zero, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Coupling, Place, Role
from meristem.edit import Explicit, Gather
from meristem.edit.explicit import Values
from meristem.edit.newborns import copied, fan_out_reasons
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.drawn import drawn, meets_itself, weights
from meristem.signals import View


@dataclass(frozen=True)
class Paired(Method):
    """Newborns come in pairs with fan-in `(V, V)` and fan-out `(Z, -Z)`, whose contributions cancel.

    Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using Variance Transfer and
    Learning Rate Adaptation", NeurIPS 2023, arXiv 2306.12700. V and Z are random; their norms are shares of the mean
    norms of the incumbents' slices. Both halves of a pair get the same carried entries (depthwise kernels too). The
    last one of an odd number is a newborn with random fan-in and zero fan-out.

    Preserved: the function, to rounding, on axes without couplings that no normalized weights read, behind BatchNorm in
    train and eval mode too. Both sides learn from the first step; the gradients of the two halves' fan-in are opposite,
    so they part at once. The gradients of incumbents on this axis stay; those of what a newborn reads do as well,
    because halves cancel.
    Fails: anything random that differs between the halves, such as dropout, changes the function (in expectation it
    does not).

    Args:
        fan_in, fan_out: shares of the incumbents' mean norm, above 0.

    Raises:
        ConfigError: a share is not above 0.
        EditError: (from the controller) the axis has no fan-out with a sign of its own: no weights read it, two
            activations are contracted over it, or one tensor both produces and reads it.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0

    def __post_init__(self) -> None:
        if not (self.fan_in > 0 and self.fan_out > 0):
            raise ConfigError(f"Paired: shares must be above 0, got fan_in={self.fan_in}, fan_out={self.fan_out}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_signed_fan_out(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        entries = pairs(view, axis, count, self.fan_in, self.fan_out)
        return Growth(axis, Gather.grow(axis.size, count), Explicit(repr(self), entries, fan_out_reasons(axis)))


def no_signed_fan_out(axes: AxisMap, axis: Axis) -> str | None:
    """Why the fan-out of newborns cannot get a sign of its own, or None if it can."""
    roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
    if Coupling.BILINEAR in axis.couplings:
        return "two activations are contracted over it, so there is no fan-out to give opposite signs"
    if not any(Role.READS in found for found in roles):
        return "no weights read it, so there is no fan-out to give opposite signs"
    if any({Role.PRODUCES, Role.READS} <= found for found in roles):
        return "one tensor both produces and reads it, so its fan-out cannot change its sign alone"
    return meets_itself(axes, axis)


def pairs(view: View, axis: Axis, count: int, fan_in: float, fan_out: float) -> Values:
    """The slices of newborns in pairs, (V, V) and (Z, -Z), for every tensor that has no neutral entry.

    Args:
        fan_in, fan_out: the norms of V and Z in units of the incumbents' mean norms.
    """
    return {(p.layout.name, p.dim): values for p, values in _entries(view, axis, count, fan_in, fan_out)}


def _entries(view: View, axis: Axis, count: int, fan_in: float, fan_out: float) -> Iterator[tuple[Place, Tensor]]:
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat((count + 1) // 2)[:count]
    if count % 2:
        signs[-1] = 0
    for place in weights(view, axis):
        reads = Role.READS in place.roles
        if reads or Role.PRODUCES in place.roles or place.layout.neutral is None:
            scale = fan_out if reads else fan_in
            halves = drawn(view, axis, place, (count + 1) // 2, scale).repeat_interleave(2, 0)[:count]
            signed = reads and not copied(place.layout, place.roles)
            yield place, halves * signs.reshape(-1, *(1,) * (halves.dim() - 1)) if signed else halves
