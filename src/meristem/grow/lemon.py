"""Widening behind a normalization by any number of units: what its statistics lose or gain, its scale makes up for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import Leaf
from meristem.axes.map import Axis, AxisMap, Coupling, Place, Role
from meristem.edit import Gather, Newborns, Slice
from meristem.edit.newborns import fan_out_reasons, incumbent_scale, uniform
from meristem.grow.hypercloning import Copies, unsettled
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import no_fan_out_to_divide
from meristem.grow.parts.norms import Norm, chained, norms
from meristem.grow.parts.shares import shares
from meristem.signals import View

_NORMALIZED = frozenset({Coupling.NORMALIZED, Coupling.REDUCED})


@dataclass(frozen=True)
class Lemon(Method):
    """Whole copies of all units; the rest of the new units hold their mean, which no normalization notices.

    Wang et al., "LEMON: Lossless Model Expansion", ICLR 2024, arXiv 2310.07999. From d units to D: q = floor(D / d)
    copies of all, whose fan-out is divided by q, and D - q d units that hold the mean of x (behind LayerNorm) or 0
    (behind RMSNorm). The mean of all stays what it was, the variance becomes `eta ** 2` times what it was, with
    `eta = sqrt(q d / D)`, so the scales of the normalizations are multiplied by eta. The paper also multiplies epsilon
    by `eta ** 2`, and silences the rest by a scale of 0; here epsilon stays, because it is no entry of a tensor, and
    the rest is not read (LayerNorm) or reads nothing (RMSNorm) instead, so that it can learn. An axis without
    normalizations gets copies of its first units for the rest.

    Preserved: the function, to rounding if the count is a multiple of d or no normalization is there, otherwise up to
    what epsilon does, which the plan says: a relative change of about `eps (1 / eta ** 2 - 1) / 2` over the variance.
    Condition: between the weights that produce the units and the normalization nothing but sums and linear maps that
    leave each unit alone stands, as in the stream of a transformer; with an activation function there, the mean of the
    weights does not give the mean of the activations (zeros stay zeros where it maps 0 to 0); and no LayerNorm is given
    what another one gave, but for weights in between: in transformers that normalize last, as BERT, a rest changes the
    function, which the plan says, and only multiples of d do not. Units of another axis that the same weights read may
    be copied in the same edit, but not with uneven shares.
    Optimizer state: as `HyperCloning`, scales divided by eta. With a rest behind LayerNorm that holds for fan-in up to
    the mean of the gradient over the units.
    Fails: copies stay equal until something tells them apart, such as dropout. Behind RMSNorm the rest is zero at
    first, and stays so for good where an activation function with derivative 0 at 0, as `torch.relu`, comes before the
    weights that read it.

    Raises:
        EditError: (from the controller) no fan-out to divide; a normalization that is neither LayerNorm nor RMSNorm
            over this axis alone, or both kinds; something else that multiplies the units, in front of LayerNorm.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        reason = no_fan_out_to_divide(axes, axis)
        return reason if reason or not axis.couplings else unnormalizable(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        copies, rest = divmod(axis.size + count, axis.size)
        copied = (*range(axis.size),) * copies
        if rest and axis.couplings:
            start: Newborns = widening(self, view.axes, axis, count, copies)
            sources = (*copied, *(-1,) * rest)
        else:
            start = Copies(repr(self), unsettled(view.axes, axis))
            sources = (*copied, *range(rest))
        return Growth(axis, Gather(sources, (False,) * axis.size + (True,) * count), start)


@dataclass(frozen=True, eq=False, repr=False)
class Widening(Newborns):
    """Copies that divide their fan-out, and a rest that holds the mean or zero; scales make up for it.

    Attributes:
        name: which method made them.
        norms: the normalizations over the axis, all of one kind.
        eta: by what the square root of the variance is multiplied.
        reasons: why the function changes; nothing if it does not.
    """

    name: str
    norms: tuple[Norm, ...]
    eta: float
    reasons: tuple[str, ...]

    def values(self, s: Slice) -> Tensor:
        zero = s.old.new_zeros(()).expand(s.shape)
        if Role.READS in s.roles:
            return zero if self._centred else uniform(s, incumbent_scale(s))
        if s.layout.name in {norm.weight for norm in self.norms}:
            return zero + self.eta
        if Role.PRODUCES not in s.roles and s.layout.neutral == 1.0:
            return zero + 1
        if s.layout.name in {norm.bias for norm in self.norms} or not self._centred:
            return zero
        return _mean(s)

    def weight_factor(self, s: Slice) -> Tensor | None:
        if s.layout.name in {norm.weight for norm in self.norms}:
            return torch.full((len(s.sources),), self.eta, dtype=torch.float64)
        return shares(s.sources) if Role.READS in s.roles else None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        if Role.READS in s.roles:
            return None
        own = s.layout.name in {norm.weight for norm in self.norms}
        return shares(s.sources) / (self.eta if own else 1.0)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        return self.reasons

    def __repr__(self) -> str:
        return self.name

    @property
    def _centred(self) -> bool:
        return self.norms[0].centred


def widening(method: Method, axes: AxisMap, axis: Axis, count: int, copies: int) -> Widening:
    """Newborns for an axis behind normalizations: `copies` of all units there were, the rest without a source."""
    found = norms(axes, axis)
    eta = math.sqrt(copies * axis.size / (axis.size + count))
    settled = {coupling.value for coupling in _NORMALIZED}
    reasons = [reason for reason in fan_out_reasons(axis) if reason not in settled]
    for norm in found:
        change = norm.eps * (1 / eta**2 - 1) / 2
        if change > torch.finfo(axes.model.get_parameter(norm.weight).dtype).eps:
            reasons.append(f"{norm.weight}: epsilon stays {norm.eps:.1g}, a relative change of {change:.1g} / variance")
    if found[0].centred and (chain := chained(axes, axis, found)):
        reasons.append(f"{chain[0]}: LayerNorm is given what LayerNorm gave, of which no unit holds the mean")
    return Widening(repr(method), found, eta, tuple(sorted(reasons)))


def unnormalizable(axes: AxisMap, axis: Axis) -> str | None:
    """Why the scales of an axis's normalizations cannot make up for a change of the variance, or None if they can."""
    if not axis.couplings <= _NORMALIZED:
        return f"its units are coupled otherwise than by a normalization: {', '.join(sorted(axis.couplings))}"
    if Role.PRODUCES in axis.nonlinear:
        return "weights that produce it are not linear in its slices (a norm of each, say): no zeros, no means of them"
    found = norms(axes, axis)
    if not found:
        return "no LayerNorm or RMSNorm over it alone, with a scale of its own, normalizes it"
    if len({norm.centred for norm in found}) > 1:
        return "LayerNorm and RMSNorm both normalize it"
    if found[0].centred and any(_rescales(place, axis, found) for place in axes.places[axis.index]):
        return "its units are scaled, produced or shifted otherwise than one by one before LayerNorm takes their mean"
    return None


def _rescales(place: Place, axis: Axis, found: tuple[Norm, ...]) -> bool:
    """Whether the mean of a tensor's entries does not give the mean of the units."""
    if Role.READS in place.roles or place.layout.name in {norm.weight for norm in found}:
        return False
    plain = place.layout.dims[place.dim] == Leaf(axis.index)
    added = Role.PRODUCES in place.roles or place.layout.neutral == 0.0
    return not (plain and (added or place.layout.joined)) or place.layout.buffer


def _mean(s: Slice) -> Tensor:
    """The mean over the old units, along other dimensions as they are after the edit: copies share their fan-out."""
    found = s.old.mean(s.dim, keepdim=True, dtype=torch.promote_types(s.old.dtype, torch.float32))
    for dim in range(found.dim()):
        if dim != s.dim:
            sources = s.along(dim).to(found.device)
            found = found.index_select(dim, sources.clamp(min=0))
            if any(Role.READS in roles for roles in s.layout.roles[dim].values()):
                parts = (shares(sources.cpu()) * (sources.cpu() >= 0)).to(found)
                found = found * parts.reshape([-1 if d == dim else 1 for d in range(found.dim())])
    return found.expand(s.shape).to(s.old.dtype)
