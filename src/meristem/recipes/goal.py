"""What a model may cost: the smallest removal that gets it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from meristem.allocate import Allocator, Per, plan_pruning
from meristem.axes import Axis, AxisMap
from meristem.edit.duplicate import copied
from meristem.errors import ConfigError, EditError
from meristem.prune import Compensated, Criterion, Removal, Wrapper, latency, latency_ratio, least_within, most_within
from meristem.schedule import Budget, Demand
from meristem.signals import Statistic, View

Cost: TypeAlias = Literal["flops", "parameters", "memory", "latency", "tolerance"]

PER: Mapping[Cost, Per] = {
    "flops": "flop", "latency": "flop", "tolerance": "flop", "parameters": "parameter", "memory": "parameter"
}  # fmt: skip
"""What a unit costs, where so much of each is to be saved."""

NOISE = 0.05
"""By how much a measured time may exceed what was asked for and still count as met."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What a model may cost, or what its loss may rise to.

    Attributes:
        cost: what is looked at.
        share: how much of it may be left, above 0, below 1; of a tolerance, by which share the loss may rise, above 0.
        full: what it is today: operations, parameters, bytes, the loss; 1 for latency, which is measured relatively.
        measure: gives the same for a model as it is then.
    """

    cost: Cost
    share: float
    full: float
    measure: Callable[[AxisMap], float]

    @classmethod
    def of(cls, axes: AxisMap, shares: Mapping[Cost, float | None], loss: Callable[[], float]) -> Goal:
        """The only one that is not None.

        Args:
            axes: today's map; its model is copied if latency is the goal, to be timed against.
            shares: by what is looked at.
            loss: measures the loss of the model.

        Raises:
            ConfigError: it is not the only one, or out of its range; or the loss is not finite.
        """
        given: dict[Cost, float] = {cost: share for cost, share in shares.items() if share is not None}
        if len(given) != 1 or not all(_sensible(cost, share) for cost, share in given.items()):
            raise ConfigError(
                f"expected exactly one of {', '.join(get_args(Cost))}: the share of today's that may be left, above 0 "
                f"and below 1, or the share by which the loss may rise, above 0; got {given or 'none'}"
            )
        ((cost, share),) = given.items()
        if cost == "latency":
            original = copied(axes.model)
            return cls(cost, share, 1.0, lambda now: ratio(now, original))
        if cost == "tolerance":
            today = loss()
            if not isfinite(today):
                raise ConfigError(f"the mean loss of the first batches is {today}: no tolerance can be held against it")
            return cls(cost, share, today, lambda _: loss())
        return cls(cost, share, _counted(cost, axes, axes.sizes), lambda now: _counted(cost, now, now.sizes))

    def bound(self, part: float = 1) -> float:
        """What may be left at most, a part of the way: in equal factors, or of the loss in equal steps."""
        if self.cost == "tolerance":
            return self.full + abs(self.full) * self.share * part
        return self.full * self.share**part

    def seconds(self, axes: AxisMap, before: float) -> float:
        """The time of a forward pass, given that of the model as it was; `measure` says it if that is the goal."""
        return before * self.measure(axes) if self.cost == "latency" else seconds(axes)

    def missed(self, got: float) -> str | None:
        """What is to be said of a last measurement that is not what was asked for, or None."""
        slack = NOISE if self.cost == "latency" else 1e-6
        if got <= self.bound() + slack * abs(self.bound()):
            return None
        what = "a loss of at most " if self.cost == "tolerance" else f"{self.cost} "
        return f"target missed: asked for {what}{self.bound():.3g}, measured {got:.3g} at the end"

    def plans(
        self, view: Callable[[], View], chosen: Sequence[Axis], criterion: Criterion, allocator: Allocator, part: float
    ) -> tuple[Removal, ...]:
        """The smallest removal that meets the goal, or a part of the way to it; of a tolerance, the largest.

        Of operations, parameters and bytes it is the first in the order of the allocator that meets it, less what of it
        can stay (see `meristem.allocate.Nested`). Latency and the loss are measured, so that amounts are
        bisected: if they do not rise and fall with the amount, a smaller removal, or a larger one, may do as well.

        Args:
            view: gives the model today, with what the criterion needs.
            chosen: the axes that may shrink.
            criterion: scores the units.
            allocator: divides an amount over the axes, within its limits.
            part: above 0; 1 is all the way.

        Raises:
            EditError: it is out of reach within the limits.
        """
        bound, most = self.bound(part), sum(axis.size for axis in chosen)

        def plans(amount: int, budget: Budget | None = None) -> tuple[Removal, ...]:
            return plan_pruning(view(), chosen, Demand("prune", amount, budget), criterion, allocator)

        axes = view().axes
        if self.cost == "tolerance":
            return most_within(axes, plans, most, lambda: self.measure(axes), bound)
        if self.cost == "latency":
            found = least_within(axes, plans, most, lambda: self.measure(axes), bound)
            if found is None:
                raise EditError(_OUT_OF_REACH.format(self.cost, self.share**part, "not even if all goes that may"))
            return found
        found = plans(most, Budget(**{"bytes" if self.cost == "memory" else self.cost: max(1.0, bound)}))
        best = _counted(self.cost, axes, sizes_after(axes, found))
        if best > bound:
            raise EditError(_OUT_OF_REACH.format(self.cost, self.share**part, f"{best / self.full:.3g} at best"))
        return found


_OUT_OF_REACH = (
    "{} cannot be brought to {:.3g} of what it was ({}): ask for less, lower `floor` or `multiple`, keep fewer axes, "
    "or take a criterion that is defined for more of them"
)


@dataclass(frozen=True)
class CompensatedWherePossible(Wrapper):
    """Another criterion, `Compensated` on every axis where that is defined and the other one does not move incumbents
    itself, as `Compensated` and `MeanKept` do."""

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return self._on(axes, axis).needs(axes, axis)

    def removal(self, view: View, axis: Axis, units: Sequence[int]) -> Removal:
        plan = self.criterion.removal(view, axis, units)
        return plan if plan.start is not None else self._on(view.axes, axis).removal(view, axis, units)

    def _on(self, axes: AxisMap, axis: Axis) -> Criterion:
        compensated = Compensated(self.criterion)
        return self.criterion if compensated.undefined(axes, axis) else compensated


def _sensible(cost: Cost, share: Any) -> bool:
    """Whether a share is a number within its range."""
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    return number and 0 < share < (inf if cost == "tolerance" else 1)


def _counted(cost: Cost, axes: AxisMap, sizes: Sequence[int]) -> int:
    """Operations, parameters or bytes at given sizes."""
    return {"flops": axes.flops, "parameters": axes.parameter_count, "memory": axes.byte_count}[cost](sizes)


def seconds(axes: AxisMap) -> float:
    """The measured time of a forward pass on the example of a map: the least of three medians, since whatever else the
    machine does only adds to it."""
    (args, kwargs, _), *_ = axes.examples
    return min(latency(axes.model, args, kwargs, runs=5, warm_up=1) for _ in range(3))


def ratio(axes: AxisMap, original: nn.Module) -> float:
    """How long the model takes, in units of what another takes on the same example: 15 passes each, in turn."""
    (args, kwargs, _), *_ = axes.examples
    return latency_ratio(axes.model, original, args, kwargs, runs=15, warm_up=2)


def sizes_after(axes: AxisMap, plans: Sequence[Removal]) -> tuple[int, ...]:
    """The size of every axis, by its number, once plans are carried out."""
    return axes.resized({plan.axis.index: len(plan.gather) for plan in plans}, {}).sizes
