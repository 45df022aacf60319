"""Taylor on gates: units whose gate the loss hardly answers to die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import SignalError
from meristem.prune.criterion import Criterion
from meristem.prune.reading import read_in_part
from meristem.prune.trained import frozen_weight
from meristem.signals import Statistic, View
from meristem.signals.reads import readers
from meristem.signals.sensitivity import Sensitivity
from meristem.signals.uses import inseparable


@dataclass(frozen=True)
class Taylor(Criterion):
    """`|dL/dm|` for a gate m = 1 that multiplies the unit wherever it is read: to first order, what the loss changes by
    if the unit is silenced. The root of the mean of its square over the recorded steps; sums over positions, samples
    and the passes of a step are inside of the square.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, arXiv
    1906.10771, with gates: their score is the square of this one, so the ranking is the same, and this one
    is in units of loss. Gates need not exist: `dL/dm = sum g w` over the unit's fan-out, since weights read linearly
    (derived). Of a weight that reads the unit in some calls and produces it in others, a tied embedding, only the
    former count. The authors average over 10 to 30 minibatches: raise `listen`.

    Preserved: the score, if a unit's fan-in is multiplied by c > 0 and its fan-out divided by c behind ReLU.

    Refused: the size of query and key heads, whose units also act where no weight reads them.

    Fails: at the end of training, where gradients average to nothing, little but noise is left; first order only, so
    prune a little at a time. What a unit does to the statistics of a norm before its readers is not seen.

    Raises:
        SignalError: (when scoring) a weight reads and produces the units, by calls that cannot be told apart.
    """

    @property
    def predicts_loss(self) -> bool:
        return True

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        found = readers(axes, axis)
        if not found:
            return "no weight reads it, so it has no gate; TaylorWeights needs none"
        partly = read_in_part(axis)
        if partly is not None:
            return f"{partly}, which no gate at the weights sees; TaylorWeights needs none"
        if Role.READS in axis.nonlinear:
            return "weights read it that are normalized before use, so that a gate is not linear in them"
        mixed = inseparable(axes, axis)
        if mixed is not None:
            return f"{mixed}, so that its gate is not known; TaylorWeights needs none"
        return frozen_weight(axes, found)

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return (Sensitivity(axis.name),)

    def scores(self, view: View, axis: Axis) -> Tensor:
        gate = view.recorded(Sensitivity(axis.name)).gate
        if bool(gate.isnan().any()):
            raise SignalError(
                f"a weight reads {axis.name} in some calls and produces it in others, and the model's code calls it in "
                "a way that does not tell them apart, so the gate is not known: take TaylorWeights for this axis"
            )
        return gate
