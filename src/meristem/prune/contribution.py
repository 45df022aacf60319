"""Contribution utility: units that have given little to their readers for a while die first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import EditError
from meristem.prune.criterion import Removal
from meristem.prune.reading import ReadCriterion
from meristem.prune.shifts import compensation, unshiftable
from meristem.prune.wrapper import Wrapper
from meristem.signals import Statistic, View
from meristem.signals.contribution import Contribution, MeanReads


@dataclass(frozen=True)
class ContributionUtility(ReadCriterion):
    """`E|h_j| * sum_k |w_kj|`, averaged over steps with decaying weights; see `meristem.signals.Contribution`.

    Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood, Sutton, "Loss of plasticity in deep continual learning", Nature 632,
    2024, arXiv 2306.13812 (Continual Backprop). It is measured in every step, so a controller with this criterion
    listens all along; newborns have none at first, so protect them by `Protect(ContributionUtility(), age=...)`.

    Fails: a constant unit counts as much as one that varies, though a bias could stand for it.

    Attributes:
        decay: of the average, at least 0, below 1. Paper: 0.99 (default).
        every: optimizer steps from one measurement to the next. Default 1.
    """

    decay: float = 0.99
    every: int = 1

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return (self._wanted(axis),)

    def scores(self, view: View, axis: Axis) -> Tensor:
        return view.recorded(self._wanted(axis))["units"]

    def _wanted(self, axis: Axis) -> Contribution:
        return Contribution(axis.name, decay=self.decay, every=self.every)


@dataclass(frozen=True)
class MeanKept(Wrapper):
    """Another criterion; when units go, what they gave on average moves into the biases of their readers.

    As `Compensated`, which see, but with means that are averaged over training with decaying weights, instead of those
    of the last steps before the edit. So Continual Backprop (arXiv 2306.13812) is meant to remove units. In its
    published code nothing moves, because the means are set to zero before they are used.

    Preserved: what readers give on average, for inputs as they were of late. In convolutions with several groups the
    means of a channel are averaged over groups.

    Attributes:
        decay: of the averages, at least 0, below 1. Default 0.99.
        every: optimizer steps from one measurement to the next. Default 1.

    Raises:
        EditError: (when planning) the other criterion compensates already.
    """

    decay: float = field(default=0.99, kw_only=True)
    every: int = field(default=1, kw_only=True)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        found = self.criterion.undefined(axes, axis)
        return unshiftable(axes, axis) if found is None else found

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys((*self.criterion.needs(axes, axis), self._wanted(axis))))

    def removal(self, view: View, axis: Axis, units: Sequence[int]) -> Removal:
        plan = self.criterion.removal(view, axis, units)
        if plan.start is not None:
            raise EditError(f"{self.criterion!r} moves incumbents itself; leave MeanKept out")
        means = {name: mean[None] for name, mean in view.recorded(self._wanted(axis)).items()}
        return replace(plan, start=compensation(view.axes, view.tensors, axis, units, means))

    def _wanted(self, axis: Axis) -> MeanReads:
        return MeanReads(axis.name, decay=self.decay, every=self.every)
