"""Variance transfer: newborns in pairs, and all weights at the scale that the new width asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.axes.path import BatchNorm
from meristem.edit import Explicit, Gather
from meristem.edit.newborns import copied, fan_out_reasons
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.paired import no_signed_fan_out, pairs
from meristem.grow.parts.drawn import slice_shape, weights
from meristem.grow.parts.rescaled import Rescaled
from meristem.signals import View


@dataclass(frozen=True)
class VarianceTransfer(Method):
    """Newborns in pairs `(V, V)`, `(Z, -Z)`; weights that read the axis get the variance of the new fan-in.

    Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using Variance Transfer and
    Learning Rate Adaptation", NeurIPS 2023, arXiv 2306.12700. When an axis grows from n to n' units, weights that read
    it should have standard deviation `~ 1 / sqrt(n')`. With `a = sqrt(n / n')`:

        newborns:    fan-out Z of norm  a * (mean norm of the incumbents' fan-out), fan-in V at the scale of the layer
        incumbents:  fan-out * a;  fan-in and biases / a  (and V with them);
                     behind BatchNorm its scale and shift / a instead

    Incumbents are rescaled only where that is exact: their activations then are `1 / a` times what they were, so
    everything between what is divided and the weights that read the axis must be linear or positively homogeneous
    (ReLU, LeakyReLU, pooling), which the map's paths must show for every producer and reader. Behind BatchNorm the
    scale of fan-in has no effect, so there what is divided are its scale and shift, of newborns too; of several on a
    path those of the last. Running statistics stay, as what they are of does. Elsewhere, around GELU, gates, softmax,
    BatchNorm without scale and shift or what cannot be followed, incumbents stay as they are.

    Behind BatchNorm there is a second way, which is said to be the paper's: fan-out * a alone, and of the BatchNorm
    that comes *behind the readers* `mean * a` and `variance * a ** 2`. It needs that norm, directly behind every
    reader, and changes the function by what its epsilon is beside the variance, in both modes; dividing scale and shift
    is exact to rounding in both, whatever follows, and is the same rule as without a norm. Hence that one.
    A weight multiplied by c has its gradient divided by c, and optimizer state moves accordingly.

    Preserved: the function, to rounding, on axes without couplings, in train and eval mode. Where incumbents are
    rescaled their gradients, and the next update, are not: that is the purpose.
    Fails: as `Paired`: dropout between pairs. The paper's adaptation of learning rates is no part of the edit.

    Args:
        fan_in, fan_out: the norms of V and Z in units of the incumbents' mean norms after rescaling, above 0.

    Raises:
        ConfigError: a share is not above 0.
        EditError: (from the controller) as for `Paired`.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0

    def __post_init__(self) -> None:
        if not (self.fan_in > 0 and self.fan_out > 0):
            raise ConfigError(
                f"VarianceTransfer: shares must be above 0, got fan_in={self.fan_in}, fan_out={self.fan_out}"
            )

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_signed_fan_out(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        reads = math.sqrt(axis.size / (axis.size + count))
        held = holders(view.axes, axis)
        factors = _factors(view.axes, axis, held or frozenset(), reads)
        entries = dict(pairs(view, axis, count, self.fan_in, self.fan_out))
        for place in weights(view, axis):
            key, neutral = (place.layout.name, place.dim), place.layout.neutral
            if key in entries and (held is not None or not copied(place.layout, place.roles)):
                entries[key] = entries[key] * factors.get(key, 1.0)
            elif key in factors and neutral:
                shape = (count, *slice_shape(view, axis, place))
                entries[key] = torch.full(shape, neutral * factors[key], dtype=torch.float64)
        newborns = Explicit(repr(self), entries, fan_out_reasons(axis))
        start = newborns if held is None else Rescaled(newborns, factors)
        return Growth(axis, Gather.grow(axis.size, count), start)


def holders(axes: AxisMap, axis: Axis) -> frozenset[str] | None:
    """The names of the tensors that have to be multiplied by c > 0 so that all that is read of an axis is multiplied by
    c: the weights that produce it, with what is added to them, or the last BatchNorm on the way.

    Returns:
        None if the map does not show that it is so: if a weight that produces or reads the axis does not stand at the
        end of a path, a step behind these tensors is not positively homogeneous, one of them is followed by a BatchNorm
        on another path, or something else is carried along that is not plainly added or multiplied.
    """
    paths, places = axes.paths.get(axis.index, ()), axes.places[axis.index]
    produced, read = (_names(places, role) for role in (Role.PRODUCES, Role.READS))
    ends = {path.producer.weight for path in paths}, {path.consumer.weight for path in paths}
    if axis.couplings or (produced, read) != ends or any(path.obstacle is not None for path in paths):
        return None
    held: set[str | None] = set()
    passed: set[str | None] = set()
    for path in paths:
        norms = path.batch_norms
        *before, last = path.producer, *norms
        behind = 1 + max((at for at, step in enumerate(path.steps) if isinstance(step, BatchNorm)), default=-1)
        if not replace(path, steps=path.steps[behind:]).homogeneous or (norms and None in (last.weight, last.bias)):
            return None
        held.update((last.weight, last.bias))
        passed.update(name for each in before for name in (each.weight, each.bias))
        passed.update(name for norm in norms for name in (norm.mean, norm.variance))
    others = [place for place in places if not place.roles & {Role.PRODUCES, Role.READS}]
    unknown = [place for place in others if place.layout.name not in held | passed]
    if any(place.layout.buffer or place.layout.neutral is None for place in unknown):
        return None
    added = {place.layout.name for place in unknown if place.roles == {Role.CARRIES} and place.layout.neutral == 0.0}
    if (held - {None}) & passed or (added and any(path.batch_norms for path in paths)):
        return None
    return frozenset(name for name in held | added if name is not None)


def _names(places: Iterable[Place], role: Role) -> set[str]:
    return {place.layout.name for place in places if role in place.roles}


def _factors(axes: AxisMap, axis: Axis, held: frozenset[str], reads: float) -> dict[tuple[str, int], float]:
    """By what each tensor's entries are multiplied: what reads the axis, and what is divided for it."""
    factors = {}
    for place in axes.places[axis.index]:
        if Role.READS in place.roles:
            factors[place.layout.name, place.dim] = reads
        elif place.layout.name in held:
            factors[place.layout.name, place.dim] = 1 / reads
    return factors
