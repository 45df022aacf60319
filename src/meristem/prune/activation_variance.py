"""Activation variance: units that are nearly constant die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis
from meristem.prune.reading import ReadCriterion
from meristem.signals import View
from meristem.signals.reads import Reads, by_unit


@dataclass(frozen=True)
class ActivationVariance(ReadCriterion):
    """`Var h_j`, h what is read of the unit, over samples and positions; the mean over its channels and readers.

    A constant unit does nothing that the biases of its readers could not do: with `Compensated(ActivationVariance())`
    removing it is exact for linear readers. Polyak, Wolf, "Channel-Level Acceleration of Deep Face Representations",
    IEEE Access 2015, score channels by their variance.

    Fails: the variance depends on the scale of fan-in, which fan-out can make up for; compare units of one axis only.
    """

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        variances = {name: (r.square - r.mean.square()).clamp(min=0) for name, r in found.items()}
        return by_unit(variances, view.axes, axis)
