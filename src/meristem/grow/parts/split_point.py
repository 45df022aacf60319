"""The curvature of the loss where units are split in two: what splitting steepest descent looks at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Change, Explicit, Gather, Trial, trial
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import Net2Wider, no_fan_out_to_divide
from meristem.grow.parts.closure import gradients, require_closure, reseeded, seed_of
from meristem.grow.parts.gathered import Gathered
from meristem.grow.parts.kinks import RoundedKinks
from meristem.grow.parts.moved import Moved, apart
from meristem.grow.parts.side import Side, normalized, produces
from meristem.signals import View
from meristem.signals.finite import require_finite

ROUNDINGS = 16
"""How many times the unit of rounding curvatures may be off, relative to what cancels: one for each operator on the way
to the loss and back, about."""


def no_split(axes: AxisMap, axis: Axis) -> str | None:
    """Why units of an axis cannot be split in two, or None if they can."""
    if not any(Role.PRODUCES in place.roles for place in axes.places[axis.index] if not place.layout.buffer):
        return "no weights produce it, so there is nothing in which two copies of a unit could differ"
    if axis.couplings:
        names = ", ".join(sorted(coupling.value for coupling in axis.couplings))
        return f"its units are not independent ({names}), so that copies alone change the function"
    if Role.READS in axis.nonlinear:
        return "weights that read it are not linear in its slices (a norm over it, say), so copies change the function"
    return no_fan_out_to_divide(axes, axis)


class SplittingMethod(Method):
    """Splits the units with the most negative curvature; how the directions are found is left open.

    Attributes:
        epsilon: how far each half is moved.
    """

    requires_closure: ClassVar[bool] = True

    epsilon: float

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_split(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        fan_in = self._fan_in(view, axis)
        lowest, vectors = self.lowest(fan_in)
        return split(fan_in, count, lowest, vectors, self.epsilon, repr(self))

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        values = self.lowest(self._fan_in(view, axis))[0].sort().values
        return (-values[curved_down(values)] * self.epsilon**2 / 2)[:count].cpu()

    @abstractmethod
    def lowest(self, fan_in: Side) -> tuple[Tensor, Tensor]:
        """Each unit's least curvature, shape (units,), 0 where it is rounding (`SplitPoint.cleared`), and unit vectors
        in that direction, shape (units, width)."""

    def _fan_in(self, view: View, axis: Axis) -> Side:
        require_closure(view)
        return Side.of(reseeded(view, axis), axis, produces)


class SplitPoint:
    """The model with every unit in two equal copies, and one loss with its gradient."""

    def __init__(self, fan_in: Side, gathered: Gathered, tried: Trial, beta: float) -> None:
        self._fan_in, self._gathered = fan_in, gathered
        self._names = list(dict.fromkeys(place.layout.name for place in fan_in.places))
        self._parameters = [tried.parameter(name) for name in self._names]
        with RoundedKinks(beta):
            self._gradients = gradients(fan_in.view, self._parameters, create_graph=True)

    def times(self, vectors: Tensor, copies: float = -1.0) -> Tensor:
        """`S_i v_i` for all units at once: both of shape (units, width), float64.

        `v^T S_i v` is the second derivative of the loss in e when the copies of unit i are at `w + e v` and `w - e v`.
        Exchanging the copies of a unit leaves the loss as it is, so the mixed derivatives of different units vanish.

        Args:
            vectors: v.
            copies: by how much of v the second copies move; with 0 it is the product with the Hessian of the first
                copies of all units.
        """
        leaves = [p for p in self._parameters if p.requires_grad]
        direction = vectors.detach().requires_grad_()
        with torch.enable_grad():
            moves = apart(self._fan_in, self._gathered, direction, copies)
            slope = sum(
                (g * moves[name].detach().to(g)).sum()
                for name, g in zip(self._names, self._gradients, strict=True)
                if g.requires_grad
            )
            if not isinstance(slope, Tensor) or not slope.requires_grad:
                return torch.zeros_like(vectors)
            found = torch.autograd.grad(slope, leaves, retain_graph=True, allow_unused=True)
            curved = {id(p): h for p, h in zip(leaves, found, strict=True) if h is not None}
            pairs = [
                (name, curved[id(p)]) for name, p in zip(self._names, self._parameters, strict=True) if id(p) in curved
            ]
            if not pairs:
                return torch.zeros_like(vectors)
            (back,) = torch.autograd.grad([moves[n] for n, _ in pairs], direction, [h.to(moves[n]) for n, h in pairs])
        return require_finite(back.detach(), f"second derivatives at the fan-in of {self._fan_in.axis.name!r}")

    def cleared(self, curvatures: Tensor, start: Tensor) -> Tensor:
        """Curvatures of all units, zero where they are rounding.

        What the two copies of a unit contribute to `S_i v_i` cancels but for the curvature between them, and so does
        what other units contribute. So it is rounded in proportion to what one copy contributes, `H_i v` with the
        Hessian H of the first copies, for a v that two steps of the power method turn to where that is large. Both are
        in proportion to the loss.

        Args:
            curvatures: shape (units,).
            start: of the power method, shape (units, width).
        """
        one = self.times(normalized(self.times(start, 0.0)), 0.0)
        eps = max(torch.finfo(parameter.dtype).eps for parameter in self._parameters)
        floor = ROUNDINGS * eps * torch.linalg.vector_norm(one, dim=1)
        return torch.where(curvatures.abs() > floor, curvatures, 0.0)


@contextmanager
def split_point(fan_in: Side, beta: float) -> Iterator[SplitPoint]:
    """Every unit of an axis in two equal copies that share its fan-out, for the duration of a `with` block."""
    view, axis = fan_in.view, fan_in.axis
    gather = Gather.duplicate(axis.size, range(axis.size))
    with trial(view.axes, [Change(axis, gather, Net2Wider())], seed_of(view, axis)) as tried:
        yield SplitPoint(fan_in, Gathered(view.axes, axis, gather), tried, beta)


def split(fan_in: Side, count: int, lowest: Tensor, vectors: Tensor, epsilon: float, name: str) -> Growth:
    """The plan that splits up to `count` units with the most negative curvature.

    Args:
        fan_in: the axis.
        count: how many.
        lowest: each unit's least curvature, shape (units,).
        vectors: unit vectors in that direction, shape (units, width).
        epsilon: how far each copy is moved.
        name: of the method.
    """
    axis = fan_in.axis
    best = lowest.argsort(stable=True)[: min(count, int(curved_down(lowest).sum()))].cpu()
    note = None if len(best) == count else f"{axis.name}: {_why_fewer(len(best), count, lowest)}"
    if not len(best):
        return Growth(axis, Gather.keep(axis.size, range(axis.size)), Net2Wider(), (), note)
    gather = Gather.duplicate(axis.size, best)
    moves = torch.zeros_like(vectors)
    moves[best] = vectors[best] * epsilon
    shifts: Mapping[str, Tensor] = apart(fan_in, Gathered(fan_in.view.axes, axis, gather), moves)
    reasons = (f"the copies of a unit are {2 * epsilon:g} apart",)
    gains = tuple((-lowest[best] * epsilon**2 / 2).tolist())
    return Growth(axis, gather, Moved(name, shifts, Explicit(name, {}), reasons), gains, note)


def curved_down(lowest: Tensor) -> Tensor:
    """Which units have negative curvature beyond rounding; bool."""
    return lowest < -1e-9 * lowest.abs().max()


def random_directions(fan_in: Side) -> Tensor:
    """Uniformly distributed unit vectors, one for each unit, from the view's generator: float64, (units, width)."""
    drawn = torch.randn(fan_in.axis.size, fan_in.width, dtype=torch.float64, generator=fan_in.view.generator)
    return normalized(drawn).to(fan_in.device)


def _why_fewer(given: int, count: int, lowest: Tensor) -> str:
    if not bool(lowest.any()):
        return f"0 of {count}; the loss has no curvature in the fan-in of any unit, and Firefly needs none"
    if given == len(lowest):
        return f"{given} of {count}; each unit is split once"
    return f"{given} of {count}; only so many units have negative curvature"
