"""TINY: newborns that move the activations where the loss wants them and the incumbents cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from meristem.axes.expression import gather_index
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import BatchNorm
from meristem.edit import Change, Explicit, Gather
from meristem.edit.compute import widened
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.line_search import best_amplitude, joint_factor
from meristem.signals import (
    BestMove,
    Directions,
    Found,
    Move,
    Statistic,
    View,
    entries,
    obstacle,
    one_reader,
    unit_norms,
)


@dataclass(frozen=True)
class TINY(Method):
    """Fan-in and fan-out from the singular vectors of `M S^-1/2`: least squares in the space of activations.

    Verbockhaven, Rudkiewicz, Chevallier, Charpiat, "Growing Tiny Networks", TMLR 2024, arXiv 2405.19816, section 4:
    with S the second moment of what newborns read, M the candidate gradient and `S^-1/2 M^T = sum_i s_i u_i v_i^T`,

        fan-in  a_i = sqrt(s_i) S^-1/2 u_i          fan-out  w_i = -sqrt(s_i) v_i

    is the best approximation of rank k to the move of the readers' results that the loss asks for.

    The inverse is taken with a ridge relative to the mean eigenvalue of S, so that twin units or constant inputs do no
    harm. Behind an activation function that is not odd at 0, ReLU say, `(a, w)` and `(-a, -w)` differ: the one that
    decreases the loss more is taken. Behind BatchNorm newborns get its scale, shift and running statistics such that
    on the recorded batch it does nothing to them.

    What newborns contribute depends on the product of the two only, where the activation function is positively
    homogeneous (ReLU): there fan-in gets the incumbents' mean norm and fan-out the rest, so that newborns whose
    contribution is small are not starved from both sides.

    Attributes:
        threshold: newborns whose singular value is below this share of the largest are not given (default 1e-3).
        ridge: added to S, as a share of its mean eigenvalue (default 1e-6).
        amplitude: factor on what newborns contribute. Where `plasticity.step(loss, closure)` gives a closure, smaller
            ones are tried too and the best is taken (a closure on a fresh batch is the better judge). Where several
            axes grow in one edit, all amplitudes are then lowered together until the loss is not above that without
            newborns. Default 1.0.
        best_move: whether the weights that read the axis make their own best move, `dW = -E[grad h^T] E[h h^T]^-1` at
            the same amplitude, and newborns supply what that cannot: then M is computed with the gradients that it
            leaves. Default: incumbents stay, and newborns get all of the gradient. Only where one weight reads.

    Preserved: nothing; the loss decreases, to first order by the predicted gain. Predicted gain of a newborn: minus the
    derivative of the loss in the amplitude, measured through the true activation function on the last recorded batch,
    times the amplitude.
    Fails: with readers of several positions (kernels above 1) the least-squares solution treats positions as
    independent; the gain stays right to first order.

    Raises:
        ConfigError: a setting is out of its range.
    """

    threshold: float = 1e-3
    ridge: float = 1e-6
    amplitude: float = 1.0
    best_move: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or not self.ridge > 0 or not self.amplitude > 0:
            raise ConfigError(f"expected 0 <= threshold < 1, ridge > 0 and amplitude > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        blocked = one_reader(axes, axis) if self.best_move else obstacle(axes, axis, one_producer=True)
        if blocked is not None:
            return blocked
        if any(norm.weight is None or norm.bias is None for norm in _batch_norms(axes, axis)):
            return "batch normalization without scale and shift cannot be made to do nothing to newborns"
        return None

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        asked = self._directions(axis, count)
        return (asked, BestMove(axis.name, self.ridge)) if self.best_move else (asked,)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = self._found(view, axis, count)
        given = min(count, int((found.values > self.threshold * found.values[:1]).sum()))
        gather = Gather.grow(axis.size, given) if given else Gather.keep(axis.size, range(axis.size))
        note = None if given == count else f"{axis.name}: {given} of {count}; the others would contribute nothing"
        amplitude = self.amplitude
        if given:
            amplitude = best_amplitude(view, axis, gather, lambda a: self._start(view, axis, given, a), self.amplitude)
        return replace(self._plan(view, axis, gather, amplitude), note=note)

    def settled(self, view: View, plans: Sequence[Growth]) -> Sequence[Growth]:
        if len(plans) < 2:
            return plans

        def scaled(factor: float) -> list[Growth]:
            return [replace(self._plan(view, p.axis, p.gather, factor * _amplitude(p)), note=p.note) for p in plans]

        factor = joint_factor(view, lambda f: [Change(p.axis, p.gather, p.start) for p in scaled(f) if p.births])
        return plans if factor == 1 else scaled(factor)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        found = self._found(view, axis, count)
        return (-found.slopes * found.values * self.amplitude)[:count].cpu()

    def _plan(self, view: View, axis: Axis, gather: Gather, amplitude: float) -> Growth:
        births = sum(gather.newborn)
        gains = self.gains(view, axis, births) * amplitude / self.amplitude if births else torch.zeros(0)
        return Growth(axis, gather, self._start(view, axis, births, amplitude), tuple(gains.tolist()))

    def _start(self, view: View, axis: Axis, births: int, amplitude: float) -> Contributing:
        made = _entries(view, axis, self._found(view, axis, births), births, amplitude)
        moves = {}
        if self.best_move:
            move: Move = view.recorded(BestMove(axis.name, self.ridge))
            moves = _moves(move, view.axes, axis, Gather.grow(axis.size, births), amplitude)
        return Contributing(repr(self), made, ("newborns contribute at once",), moves=moves, amplitude=amplitude)

    def _directions(self, axis: Axis, count: int) -> Directions:
        return Directions(axis.name, count, whitened=True, ridge=self.ridge, residual=self.best_move)

    def _found(self, view: View, axis: Axis, count: int) -> Found:
        return view.recorded(self._directions(axis, count))


@dataclass(frozen=True, eq=False)
class Contributing(Explicit):
    """Newborns that contribute with this factor."""

    amplitude: float = field(kw_only=True)

    def __repr__(self) -> str:
        return f"{self.name} at amplitude {self.amplitude:.3g}"


def _amplitude(plan: Growth) -> float:
    assert isinstance(plan.start, Contributing)
    return plan.start.amplitude


def _batch_norms(axes: AxisMap, axis: Axis) -> tuple[BatchNorm, ...]:
    return tuple(dict.fromkeys(norm for path in axes.paths[axis.index] for norm in path.batch_norms))


def _entries(view: View, axis: Axis, found: Found, count: int, amplitude: float) -> dict[tuple[str, int], Tensor]:
    """Newborns at an amplitude."""
    norms = _batch_norms(view.axes, axis)
    contribution = amplitude * found.values[:count]
    size = _fan_in_size(view, axis, found.incoming[:count], contribution)
    values = entries(found.fan_in, found.incoming[:count] * size[:, None])
    values |= entries(found.fan_out, -found.outgoing[:count] * (contribution / size)[:, None])
    for norm in norms:
        assert found.mean is not None
        assert found.variance is not None
        mean, variance = found.mean[:count] * size, found.variance[:count] * size**2
        made = {
            norm.weight: (variance + norm.eps).sqrt(), norm.bias: mean, norm.mean: mean, norm.variance: variance
        }  # fmt: skip
        values |= {(name, 0): entry[:, None] for name, entry in made.items() if name is not None}
    return values


def _moves(move: Move, axes: AxisMap, axis: Axis, gather: Gather, amplitude: float) -> dict[str, Tensor]:
    """The reader's own move, in its shape after the edit."""
    delta = move.delta.transpose(0, 1) if move.transposed else move.delta
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
