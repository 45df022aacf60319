"""Zero extension: units that are zero at first, behind RMSNorm, whose scale makes up for them."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Gather
from meristem.grow.lemon import unnormalizable, widening
from meristem.grow.method import Growth, Method
from meristem.grow.parts.norms import norms
from meristem.signals import View


@dataclass(frozen=True)
class ZeroExtension(Method):
    """Newborns that nothing produces yet and that are read at random; scales of RMSNorm times `sqrt(d / D)`.

    From d to D units the mean square shrinks to `d / D` of what it was when the new ones are zero, so a scale of
    `gamma * sqrt(d / D)` gives what gamma gave; but for epsilon, which would have to be multiplied by `d / D` and which
    no entry of a tensor holds. Derived here; of use for the streams of language models between RMSNorms.

    Preserved: the function, up to what epsilon does (the plan says how much where it is more than rounding), and the
    gradients of incumbents, those of scales divided by `sqrt(d / D)`; provided that what stands between the weights
    that produce the units and those that read them maps 0 to 0. Newborns' fan-in learns from the first step.
    Fails: behind LayerNorm, where zeros move the mean (`Lemon` is the method there). Where an activation
    function with derivative 0 at 0, as `torch.relu`, comes between RMSNorm and the weights that read it, newborns stay
    zero for good; behind a gate that is zero as well, nothing learns either.

    Raises:
        EditError: (from the controller) RMSNorm is not all that normalizes the axis; no weights read it, or one tensor
            both produces and reads it.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
        if not any(Role.READS in found for found in roles):
            return "no weights read it, so that nothing would teach units that are zero"
        if any({Role.PRODUCES, Role.READS} <= found for found in roles):
            return "one tensor both produces and reads it, so it cannot be zero on one side alone"
        reason = unnormalizable(axes, axis)
        if reason is None and norms(axes, axis)[0].centred:
            return "LayerNorm subtracts its mean, which zeros would move"
        return reason

    def zero_side(self) -> Role:
        return Role.PRODUCES

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        start = widening(self, view.axes, axis, count, copies=1)
        return Growth(axis, Gather.grow(axis.size, count), start)
