"""TINY: newborns that move the activations where the loss wants them and the incumbents cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.edit import Change, Gather
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.between import batch_norms, not_linear_at_zero
from meristem.grow.parts.contributing import Contributing, Pairs, moves
from meristem.grow.parts.line_search import best_amplitude, joint_factor
from meristem.grow.parts.steepness import longest, steepness
from meristem.signals import BestMove, Directions, Found, Move, Statistic, View, obstacle, one_reader


@dataclass(frozen=True)
class TINY(Method):
    """Fan-in and fan-out from the singular vectors of `M S^-1/2`: least squares in the space of activations.

    Verbockhaven, Rudkiewicz, Chevallier, Charpiat, "Growing Tiny Networks", TMLR 2024, arXiv 2405.19816, section 4:
    with S the second moment of what newborns read, M the candidate gradient and `S^-1/2 M^T = sum_i s_i u_i v_i^T`,

        fan-in  a_i = sqrt(s_i) S^-1/2 u_i          fan-out  w_i = -sqrt(s_i) v_i

    is the best approximation of rank k to the move of the readers' results that the loss asks for. Where several
    channels belong to one unit, one of every group of a convolution say, M and S have a block for each, and the i-th
    newborn has the i-th pair of every block.

    The loss is taken as it is differentiated: as a mean over samples, S is the mean of `x x^T`, M that of a sample's
    gradient times `x^T`, and newborns make one step of size 1 in the space of activations. Of a loss that is a *sum*
    over n samples gradients are n times as large, and so are M, that step and what newborns contribute; gains, in units
    of that loss, n^2 times. They are right to first order still, but the step is far too long: newborns are as of the
    mean with `amplitude=1 / n`, or with `mean` as the loss's reduction.

    What is nearly the same in all samples, as the difference between units that were twins some steps ago is, S^-1/2
    amplifies: newborns that read it need a large fan-in or fan-out, and the loss, though lower at birth, may explode
    at the next steps. Against that the inverse is taken with a ridge, which is a penalty on `|sum_i w_i a_i^T|^2` in
    the least squares, and no newborn is steeper, in `|a_i| |w_i|`, than the incumbents together (derived, not of the
    paper).

    Behind an activation function that is not odd at 0, ReLU say, `(a, w)` and `(-a, -w)` differ: the one that
    decreases the loss more is taken. Behind BatchNorm newborns get its scale, shift and running statistics such that
    on the recorded batch it does nothing to them.

    What newborns contribute depends on the product of the two only, where the activation function is positively
    homogeneous (ReLU): there fan-in gets the incumbents' mean norm and fan-out the rest, so that newborns whose
    contribution is small are not starved from both sides.

    Attributes:
        threshold: newborns whose singular value is below this share of the largest are not given (default 1e-3).
        ridge: added to S, as a share of its mean eigenvalue (default 1e-3). The smaller, the nearer to the published
            optimum on the recorded batch.
        steepness: the norm of a newborn's fan-in, bias included, times that of its fan-out is at most this multiple of
            the product of the spectral norms of all incumbents' fan-ins and fan-outs (default 1.0; `math.inf`: no
            limit, as published). Where one of these is zero there is no limit.
        amplitude: factor on what newborns contribute. Where `plasticity.step(loss, closure)` gives a closure, smaller
            ones are tried too and the best is taken (a closure on a fresh batch is the better judge). Where several
            axes grow in one edit, all amplitudes are then lowered together until the loss is not above that without
            newborns. Default 1.0.
        best_move: whether the weights that read the axis make their own best move, `dW = -E[grad h^T] E[h h^T]^-1` at
            the same amplitude, but no farther than `steepness` times their own spectral norm, and newborns supply what
            that cannot: then M is computed with the gradients that it leaves. Default: incumbents stay, and newborns
            get all of the gradient. Only where one weight reads.

    Preserved: nothing; the loss decreases, to first order by the predicted gain. Predicted gain of a newborn: minus the
    derivative of the loss in what it contributes, at 0 and through the true activation function, times what it
    contributes: the amplitude, or less where it would be too steep. The derivative is that of everything recorded;
    only what a kink at 0 (ReLU) does to it is estimated from the last pass.
    Fails: with readers of several positions (kernels above 1) the least-squares solution treats positions as
    independent; the gain stays right to first order. Where the activation function is not 0 at 0 (sigmoid, softplus),
    or flat there (squared ReLU), newborns are not proportional to their weights: refused, and where a number that the
    model learns makes it so later, none are given, with a note.

    Raises:
        ConfigError: a setting is out of its range.
        SignalError: (in the recorded step) the second moment of what newborns would read is not finite.
    """

    threshold: float = 1e-3
    ridge: float = 1e-3
    amplitude: float = 1.0
    best_move: bool = False
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or not all(x > 0 for x in (self.ridge, self.amplitude, self.steepness)):
            raise ConfigError(f"expected 0 <= threshold < 1, and ridge, amplitude and steepness > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        alone = one_reader(axes, axis) if self.best_move else None
        blocked = alone or obstacle(axes, axis, one_producer=True, several=True)
        if blocked is not None:
            return blocked
        if any(norm.weight is None or norm.bias is None for norm in batch_norms(axes, axis)):
            return "batch normalization without scale and shift cannot be made to do nothing to newborns"
        return not_linear_at_zero(axes, axis, today=False)

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        asked = self._directions(axis, count)
        return (asked, BestMove(axis.name, self.ridge)) if self.best_move else (asked,)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        pairs = self._pairs(view, axis, count)
        values = pairs.found.values
        pairs = pairs.first(min(count, int((values > self.threshold * values[:1]).sum())))
        given = len(pairs.found)
        note = None
        if given < count:
            why = not_linear_at_zero(view.axes, axis) or "the others would contribute nothing"
            note = f"{axis.name}: {given} of {count}; {why}"
        gather = Gather.grow(axis.size, given) if given else Gather.keep(axis.size, range(axis.size))
        amplitude = self.amplitude
        if given:
            most = min(self.amplitude, pairs.largest)
            amplitude = best_amplitude(view, axis, gather, lambda a: self._start(view, axis, pairs, a), most)
        return Growth(axis, gather, self._start(view, axis, pairs, amplitude), _gains(pairs, amplitude), note)

    def settled(self, view: View, plans: Sequence[Growth]) -> Sequence[Growth]:
        if len(plans) < 2:
            return plans
        growing = [(plan, self._pairs(view, plan.axis, plan.births)) for plan in plans]

        def scaled(factor: float) -> list[Growth]:
            found = []
            for plan, pairs in growing:
                start = self._start(view, plan.axis, pairs, factor * _amplitude(plan))
                found.append(replace(plan, start=start, gains=_gains(pairs, start.amplitude)))
            return found

        factor = joint_factor(view, lambda f: [Change(p.axis, p.gather, p.start) for p in scaled(f) if p.births])
        return plans if factor == 1 else scaled(factor)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        return self._pairs(view, axis, count).gains(self.amplitude)

    def _start(self, view: View, axis: Axis, pairs: Pairs, amplitude: float) -> Contributing:
        moved = {}
        if self.best_move:
            move: Move = view.recorded(BestMove(axis.name, self.ridge))
            far = min(amplitude, self.steepness * longest(view, move))
            moved = moves(move, view.axes, axis, Gather.grow(axis.size, len(pairs.found)), far)
        entries = pairs.entries(view, axis, amplitude)
        return Contributing(repr(self), entries, ("newborns contribute at once",), moves=moved, amplitude=amplitude)

    def _pairs(self, view: View, axis: Axis, count: int) -> Pairs:
        """At most so many, the largest singular values first; none where a number that the model learns forbids it."""
        recorded: Found = view.recorded(self._directions(axis, count))
        found = recorded.first(0 if not_linear_at_zero(view.axes, axis) else count)
        most = self.steepness * steepness(view, axis)
        return Pairs(found, most / torch.linalg.vector_norm(found.incoming, dim=1))

    def _directions(self, axis: Axis, count: int) -> Directions:
        return Directions(axis.name, count, whitened=True, ridge=self.ridge, residual=self.best_move)


def _amplitude(plan: Growth) -> float:
    assert isinstance(plan.start, Contributing)
    return plan.start.amplitude


def _gains(pairs: Pairs, amplitude: float) -> tuple[float, ...]:
    return tuple(pairs.gains(amplitude).tolist())
