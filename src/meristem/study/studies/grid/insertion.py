"""Newborns behind batch normalization: as published, which does not look at it, and such that nobody notices them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Explicit, Gather
from meristem.grow import Firefly, GradMax, GradMaxOpt, Method, Mitosis, Random, ZeroFanOut
from meristem.grow.gradmax import WAKE
from meristem.grow.method import Growth
from meristem.integrate import Integrator, OpenGate, RunningStatistics
from meristem.signals import Directions, Found, Statistic, View, entries, obstacle, unit_norms

Insertion: TypeAlias = Literal["published", "safe", "side", "statistics"]
Growing: TypeAlias = Literal["GradMax", "GradMax-Opt", "Firefly", "random", "Mitosis"]


@dataclass(frozen=True)
class BlindGradMax(GradMax):
    """GradMax as if there were no batch normalization: what it does in a framework that does not look at it.

    Newborns' pre-activations have variance 0, so that BatchNorm multiplies their first gradients by `1 / sqrt(eps)`,
    316, and gives them unit variance after the first step, however small that was. The shift of newborns is 1e-6, so
    that ReLU, whose derivative at 0 is 1 in the authors' code and 0 in PyTorch, lets the gradient through.

    Preserved: the function up to 1e-6 of the fan-out, at birth; not after the next step. For what is safe, see
    `UnreadGradMax`.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        plan = super().propose(view, axis, count)
        shifts = {norm.bias for path in view.axes.paths[axis.index] for norm in path.batch_norms}
        if not isinstance(plan.start, Explicit):
            return plan
        wake = {(name, 0): torch.full((plan.births, 1), WAKE, dtype=torch.float64) for name in shifts if name}
        return replace(plan, start=replace(plan.start, entries={**plan.start.entries, **wake}))


@dataclass(frozen=True)
class UnreadGradMax(Method):
    """GradMax from the other side: fan-in along the leading right singular vectors of M, and zero fan-out.

    With `M = U S V^T` the candidate gradient of GradMax (arXiv 2201.05125), newborns that read along V and that nothing
    reads get the largest gradient of their fan-out, as those with fan-out U and zero fan-in do of their fan-in
    (derived, by symmetry). Their pre-activations have a variance from birth on, so BatchNorm has something to divide
    by. Fan-in has the incumbents' mean norm.

    Preserved: the function, exactly, behind BatchNorm in train and eval mode. Given are at most as many newborns as M
    has rank.
    Fails: M is linear in what newborns read: that BatchNorm and the activation function come in between is not seen.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (Directions(axis.name, count),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found: Found = view.recorded(Directions(axis.name, count))
        given = min(count, len(found))
        size = float(unit_norms(view, axis, Role.PRODUCES).mean())
        directions = found.incoming[:given]
        norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp(min=1e-30)
        values = entries(found.fan_in, size * directions / norms)
        values |= entries(found.fan_out, torch.zeros_like(found.outgoing[:given]))
        gather = Gather.grow(axis.size, given) if given else Gather.keep(axis.size, range(axis.size))
        note = None if given == count else f"{axis.name}: {given} of {count}, the rank of the candidate gradient"
        return Growth(axis, gather, Explicit(repr(self), values), note=note)


def method(growing: Growing, norm: bool, insertion: Insertion, tries: int) -> Method:
    """A growth method in one of its forms.

    Args:
        growing: which.
        norm: whether the net has batch normalizations.
        insertion: `published`: fan-in of newborns is zero (GradMax, GradMax-Opt, random), or candidates of both kinds
            at full size (Firefly). `safe`: behind batch normalization nothing reads newborns at first, and running
            statistics are their own. `side`, `statistics`: the first half of that alone, and the second.
        tries: evaluations of the loss for each axis, for methods that train newborns before birth; of Firefly's new
            units four times as many compete, at most 70, the published number.
    """
    safe = insertion in ("safe", "side")
    if growing == "GradMax":
        return UnreadGradMax() if safe else BlindGradMax() if norm else GradMax()
    if growing == "GradMax-Opt":
        return GradMaxOpt(ZeroFanOut() if safe else Random(fan_in=0.0, fan_out=0.5), steps=tries)
    if growing == "Firefly":
        return Firefly(steps=tries, passes=max(1, tries // 6), fresh=min(70, 4 * tries))
    if growing == "random":
        return Random(fan_in=1.0, fan_out=0.0) if safe else Random(fan_in=0.0, fan_out=0.5)
    return Mitosis()


def helpers(growing: Growing, norm: bool, insertion: Insertion, steps: int) -> Sequence[Integrator]:
    """What goes with safe insertion: running statistics of newborns from their own batches; and where newborns change
    the function (Firefly), a gate that opens over a number of steps."""
    own = (RunningStatistics(),) if norm and insertion in ("safe", "statistics") else ()
    gate = (OpenGate(steps=steps),) if norm and insertion in ("safe", "side") and growing == "Firefly" else ()
    return (*own, *gate)
