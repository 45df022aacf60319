"""NorthPre: newborns whose pre-activations are uncorrelated with those of all incumbents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import Whitened, decomposing, fan_ins, finite, mean_norm, plan
from meristem.signals import SecondMoment, Statistic, View, unfollowed
from meristem.signals.directions import spread


@dataclass(frozen=True)
class NorthPre(Method):
    """Random pre-activations without their part along the incumbents' pre-activations.

    The "Pre" initialisation of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539: `W_new = pinv(X) P Z`, Z random, P the projection off the incumbents'
    pre-activations. For Gaussian Z that is, without keeping any X, `W_new = S^-1/2 P' Z'` with S the second moment of
    what newborns read and P' the projection off the rows of `W S^1/2`. Here newborns' pre-activations also have mean
    zero, as far as that is in their power, so that they are uncorrelated with the incumbents' about any origin, and are
    uncorrelated with each other. Fan-in is scaled to the incumbents' mean norm (biases counted), fan-out is zero.

    Attributes:
        tolerance: directions of S whose eigenvalue is below this share of the largest do not count (default 1e-6).

    Preserved: the function. On the recorded batches every correlation of a new with an old pre-activation is at most
    1e-6. Predicts no gains. Gives at most as many newborns as directions are left: the rank of S less that of the
    incumbents; none where a layer has at least as many units as inputs.
    Fails: directions that hardly vary get large weights, and so newborns that are all but silent; the loss is not
    asked.

    Raises:
        ConfigError: the tolerance is out of its range.
        SignalError: (when it proposes) weights or the second moment are not finite, or cannot be decomposed.
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"NorthPre(tolerance=...) must be between 0 and 1, got {self.tolerance!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unfollowed(axes, axis, one_producer=True)

    def zero_side(self) -> Role:
        return Role.READS

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (SecondMoment(axis.name),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = view.signals[SecondMoment(axis.name)]
        block = found.fan_in[0]
        old = fan_ins(view, axis, block)
        finite(axis, found.matrix, block, old)
        space = Whitened.of(axis, found.matrix, old, self.tolerance)
        with decomposing(f"the incumbents' pre-activations along {axis.name!r}"):
            incoming, left = uncorrelated(space, count, self.tolerance, view.generator)
        incoming = incoming * (mean_norm(old) / incoming.norm(dim=1, keepdim=True))
        note = None
        if len(incoming) < count:
            note = (
                f"{axis.name}: {left} of {count}; the incumbents leave no more directions of what {block.weight} reads"
            )
        return plan(self, view, axis, found.fan_in, incoming, spread(found.matrix, incoming), note)


def uncorrelated(space: Whitened, count: int, tolerance: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """Random weights whose pre-activations have unit square, and are uncorrelated with old ones and each other.

    Args:
        space: of pre-activations, with those that there are.
        count: how many are wanted.
        tolerance: what is taken for zero, relative to the largest.
        generator: on the CPU.

    Returns:
        shape (at most count, entries), and how many there could be.
    """
    _, sizes, rows = torch.linalg.svd(space.taken, full_matrices=False)
    rows = rows[sizes > tolerance * sizes[:1]]
    left = len(space.roots) - len(rows)
    shape = (min(count, left), len(space.roots))
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator).to(rows.device)
    for _ in range(2):  # once more, for what rounding left
        drawn = torch.linalg.qr((drawn - drawn @ rows.T @ rows).T).Q.T
    return space.back(drawn), left
