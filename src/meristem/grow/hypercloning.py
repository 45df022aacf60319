"""HyperCloning: every unit is copied the same number of times, which passes through normalizations exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from meristem.axes.expression import Concat, Expression, Leaf
from meristem.axes.map import Axis, AxisMap, Coupling, Role
from meristem.edit import Gather, Newborns, Slice
from meristem.edit.newborns import fan_out_reasons
from meristem.errors import ConfigError, EditError
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import no_fan_out_to_divide
from meristem.grow.parts.shares import shares
from meristem.grow.parts.zero_sum import ZeroSum
from meristem.signals import View


@dataclass(frozen=True)
class HyperCloning(Method):
    """All units of an axis are copied r - 1 times; fan-out weights are divided by r.

    Samragh et al., "Scaling Smart: Accelerating Large Language Model Pre-training with Small Model Initialization",
    arXiv 2409.12903: `W' = repeat(W, r_out, r_in) / r_in`, biases and scales of normalizations repeated. The mean and
    the variance over r copies of everything are those over one, so LayerNorm, RMSNorm and GroupNorm (within its groups)
    give r copies of what they gave. With every axis of a transformer in one edit, that is the paper's method; heads are
    copied whole, and the size of a query's head is not an axis for which the method is defined.

    Gradients of fan-in and of carried entries are divided by r, through normalizations too, those of fan-out stay;
    optimizer state moves accordingly.

    Preserved: the function, to rounding, on axes whose only coupling is `normalized`, in train and eval mode; unless
    the axis is concatenated with another one, in which case only part of what is normalized would be copied.
    Gives: the largest multiple of the axis's size that is not above the number asked for, with a note if that is less.
    Fails: copies get equal gradients and stay equal until something tells them apart: dropout, or the paper's `noise`
    on the fan-out, which adds up to 0 over the copies of one unit; fan-in state then is right only up to the share of
    the noise in the gradient.

    Args:
        noise: standard deviation of the noise in units of the root mean square of the weights that it is added to, at
            least 0. Default: none.

    Raises:
        ConfigError: the noise is below 0.
        EditError: (from the controller) the axis has no fan-out to divide: no weights read it, two activations are
            contracted over it, or one tensor both produces and reads it (tied embeddings: one factor would have to be
            right for both).
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise ConfigError(f"HyperCloning: noise must be at least 0, got {self.noise}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_fan_out_to_divide(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        times, rest = divmod(count, axis.size)
        gather = Gather((*range(axis.size),) * (1 + times), (False,) * axis.size + (True,) * (axis.size * times))
        note = None
        if rest:
            note = (
                f"{axis.name}: {axis.size * times} of {count}; all {axis.size} units are copied equally often: "
                f"possible are {axis.size}, {2 * axis.size}, {3 * axis.size}, ... newborns"
            )
        start: Newborns = Copies(repr(self), unsettled(view.axes, axis))
        if self.noise:
            start = ZeroSum.of(view, axis, gather, start, self.noise)
        return Growth(axis, gather, start, note=note)


@dataclass(frozen=True, repr=False)
class Copies(Newborns):
    """Copies that divide the fan-out of their source equally.

    Attributes:
        name: which method made them.
        reasons: why that changes the function; nothing if it does not.
    """

    name: str
    reasons: tuple[str, ...] = ()

    def values(self, s: Slice) -> Tensor:
        raise EditError(f"{self.name} copies incumbents; it has no values for units without a source")

    def weight_factor(self, s: Slice) -> Tensor | None:
        return shares(s.sources) if Role.READS in s.roles else None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        return None if Role.READS in s.roles else shares(s.sources)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        return self.reasons

    def __repr__(self) -> str:
        return self.name


def unsettled(axes: AxisMap, axis: Axis) -> tuple[str, ...]:
    """Why copying every unit equally often changes the function; nothing if it does not."""
    whole = all(_whole(place.layout.dims[place.dim], axis.index) for place in axes.places[axis.index])
    settled = {Coupling.NORMALIZED.value} if whole else set()
    return tuple(reason for reason in fan_out_reasons(axis) if reason not in settled)


def _whole(expression: Expression, axis: int) -> bool:
    """Whether every index of a dimension belongs to a unit of the axis."""
    if isinstance(expression, Leaf):
        return expression.axis == axis
    if isinstance(expression, Concat):
        return all(_whole(part, axis) for part in expression.parts)
    return any(_whole(factor, axis) for factor in expression.factors)
