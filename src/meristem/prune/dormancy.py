"""Dormancy: units that are much less active than the others of their axis die first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meristem.axes.map import Axis
from meristem.prune.reading import ReadCriterion
from meristem.signals import View
from meristem.signals.reads import Reads, by_unit


def relative(values: Tensor) -> Tensor:
    """Divided by their mean; zeros stay zeros."""
    mean = values.mean()
    return values / mean if mean > 0 else values


@dataclass(frozen=True)
class Dormancy(ReadCriterion):
    """`E|h_j| / mean_k E|h_k|`, h what is read of the units, over samples and positions; the mean over the readers.

    Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023, arXiv
    2302.12902 (ReDo). A unit is tau-dormant if its score is at most tau: 0 for exact zeros, 0.025 and 0.1 in the paper.
    Mean 1 on every axis, so axes are comparable.

    Fails: a unit that is constantly large counts as active; in residual nets inactive units may still matter (see
    `GradientDormancy`).
    """

    @property
    def comparable(self) -> bool:
        return True

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        return relative(by_unit({name: reading.size for name, reading in found.items()}, view.axes, axis))
