"""NorthOpt: newborns whose pre-activations extend those of the incumbents as far as their norm allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import fan_ins, finite, mean_norm, plan
from meristem.signals import SecondMoment, Statistic, View, unfollowed
from meristem.signals.directions import spread


@dataclass(frozen=True)
class NorthOpt(Method):
    """Fan-in that maximises the sum of the singular values of all pre-activations, from random starts.

    The "Opt" initialisation of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539. With Z the pre-activations of incumbents and newborns (units x n),

        maximise  sum_i sigma_i(Z / sqrt(n))     subject to norm(w_j) = the incumbents' mean fan-in norm, biases counted

    The sum grows with what newborns add beyond the incumbents and each other, so larger is more orthogonal. The
    authors maximise by Adam, activations one newborn by one, and then keep the worst (the sign is turned round). Here
    all newborns are taken together, and pre-activations, whose second moments suffice, so that no samples are kept.
    The sum is convex in the weights, so `w_j <- |w_j| G_j / |G_j|` with G its gradient never lowers it, and needs no
    learning rate: ten such steps go further than 400 of Adam. The sign of `w_j` does not matter to the sum; it is that
    with which the mean of the pre-activation is not negative, or newborns behind ReLU might never learn. Fan-out is
    zero.

    Attributes:
        steps: how many (default 20). Each costs one eigendecomposition of (units + newborns) rows.

    Preserved: the function. Predicts no gains. Gives as many newborns as are asked for, also where no direction is
    left; `NorthPre` is the one that is exactly uncorrelated where the rank permits.
    Fails: what is nonlinear between the pre-activation and its reader is not seen; nor is the loss.

    Raises:
        ConfigError: a setting is out of its range.
        SignalError: (when it proposes) weights or the second moment are not finite.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if not self.steps >= 0:
            raise ConfigError(f"NorthOpt(steps=...) must be at least 0, got {self.steps!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unfollowed(axes, axis, one_producer=True)

    def zero_side(self) -> Role:
        return Role.READS

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (SecondMoment(axis.name),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = view.signals[SecondMoment(axis.name)]
        old = fan_ins(view, axis, found.fan_in[0])
        finite(axis, found.matrix, found.fan_in[0], old)
        start = torch.randn(count, old.shape[1], dtype=torch.float64, generator=view.generator).to(old.device)
        incoming = self._optimised(found.matrix, old, start * (mean_norm(old) / start.norm(dim=1, keepdim=True)))
        below = spread(found.matrix, incoming)[0] < 0
        incoming = torch.where(below[:, None], -incoming, incoming)
        return plan(self, view, axis, found.fan_in, incoming, spread(found.matrix, incoming), None)

    def _optimised(self, moment: Tensor, old: Tensor, w: Tensor) -> Tensor:
        moment = moment[: old.shape[1], : old.shape[1]]
        known, norms = old @ moment, w.norm(dim=1, keepdim=True)
        for _ in range(self.steps):
            _, gradient = singular_values(moment, old, known, w)
            lengths = gradient.norm(dim=1, keepdim=True)
            w = torch.where(lengths > 0, gradient * (norms / lengths), w)
        return w


def singular_values(moment: Tensor, old: Tensor, known: Tensor, new: Tensor) -> tuple[float, Tensor]:
    """The sum of the singular values of all pre-activations, and its gradient with respect to the new weights.

    With `Z Z^T / n = W S W^T = K` the sum is `tr K^1/2` and the gradient of the new rows those of `K^-1/2 W S`.

    Args:
        moment: S, shape (entries, entries).
        old, new: weights, shape (units, entries).
        known: `old @ moment`.
    """
    rows, products = torch.cat([old, new]), torch.cat([known, new @ moment])
    values, vectors = torch.linalg.eigh(products @ rows.T)
    values = values.clamp(min=torch.finfo(values.dtype).eps * float(values[-1])).sqrt()
    inverse = (vectors[-len(new) :] / values.clamp(min=torch.finfo(values.dtype).tiny)) @ vectors.T
    return float(values.sum()), inverse @ products
