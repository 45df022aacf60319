"""NorthOpt: newborns whose pre-activations are as unlike those of the incumbents, and each other's, as they can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import Whitened, decomposing, fan_ins, finite, mean_norm, plan, unit
from meristem.signals import SecondMoment, Statistic, View, unfollowed
from meristem.signals.directions import spread


@dataclass(frozen=True)
class NorthOpt(Method):
    """Fan-in that maximises the sum of the singular values of all pre-activations at unit size, from random starts.

    The "Opt" initialisation of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539. With Z the pre-activations of incumbents and newborns, and the constant 1
    as one more incumbent (units x n), every row divided by its root mean square,

        maximise  sum_i sigma_i(Z / sqrt(n))

    As the sum of the squares of the singular values is fixed, their sum is the larger the more equal they are, and
    largest where rows are orthogonal: newborns then are uncorrelated with incumbents and each other about any origin.
    (Without the division loud rows win, all along the one direction that is loudest: behind non-negative inputs
    newborns are then copies of each other. The authors divide the weights only, maximise by Adam, activations
    one newborn by one, and then keep the worst: the sign is turned round.) Here all newborns are taken together, and
    pre-activations, whose second moments suffice, so that no samples are kept. The sum is convex in the rows, so
    `z_j <- G_j / |G_j|` with G its gradient never lowers it, and needs no learning rate. Then fan-in is scaled to the
    incumbents' mean norm (biases counted), which leaves angles as they are; its sign is that with which the mean of the
    pre-activation is not negative, or newborns behind ReLU might never learn. Fan-out is zero.

    Attributes:
        steps: how many (default 20). Each costs one eigendecomposition, of (units + newborns) rows or of what they
            read, whichever is less.
        tolerance: directions of the second moment of what is read whose eigenvalue is below this share of the largest
            do not count (default 1e-6).

    Preserved: the function. Predicts no gains. Gives as many newborns as are asked for, also where no direction is
    left; `NorthPre` is the one that is exactly uncorrelated where the rank permits.
    Fails: what is nonlinear between the pre-activation and its reader is not seen; nor is the loss. Directions that
    hardly vary are as good as others: where incumbents leave no others newborns are all but silent.

    Raises:
        ConfigError: a setting is out of its range.
        SignalError: (when it proposes) weights or the second moment are not finite, or cannot be decomposed.
    """

    steps: int = 20
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and 0 < self.tolerance < 1):
            raise ConfigError(f"expected steps >= 0 and a tolerance between 0 and 1, got {self!r}")

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
        space = Whitened.of(axis, found.matrix, old, self.tolerance)
        start = torch.randn(count, old.shape[1], dtype=torch.float64, generator=view.generator).to(old.device)
        responses = space.into(start)
        with decomposing(f"the pre-activations along {axis.name!r}"):
            for _ in range(self.steps):
                responses = step(space.taken, responses)
        incoming = space.back(responses)
        incoming = torch.where(incoming.any(1, keepdim=True), incoming, start)
        incoming = unit(incoming) * mean_norm(old)
        below = spread(found.matrix, incoming)[0] < 0
        incoming = torch.where(below[:, None], -incoming, incoming)
        return plan(self, view, axis, found.fan_in, incoming, spread(found.matrix, incoming), None)


def step(taken: Tensor, new: Tensor) -> Tensor:
    """New rows of norm 1 with which the sum of the singular values of all rows is at least what it was.

    With `Y Y^T = U diag(d) U^T` the gradient of the sum is `U diag(d)^-1/2 U^T Y`, on the side where it is smaller.

    Args:
        taken: rows that stay, of norm 1 or zero, shape (rows, directions).
        new: rows of norm 1, shape (newborns, directions).
    """
    rows = torch.cat([taken, new])
    if len(rows) <= rows.shape[1]:
        gradient = _inverse_root(rows @ rows.T)[-len(new) :] @ rows
    else:
        gradient = new @ _inverse_root(rows.T @ rows)
    return torch.where(gradient.any(1, keepdim=True), unit(gradient), new)


def _inverse_root(gram: Tensor) -> Tensor:
    """Its power -1/2; zero along what is rounding."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > len(gram) * torch.finfo(gram.dtype).eps * values[-1:]
    return vectors[:, kept] / values[kept].sqrt() @ vectors[:, kept].T
