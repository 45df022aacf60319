"""From demands to plans: what a demand needs to know, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from meristem.allocate import (
    Allocator,
    Parts,
    Turnover,
    at_most,
    axis_by_axis,
    by_axis,
    plan_growth,
    plan_next_pruning,
    plan_turnover,
    replaceable,
    require_known,
)
from meristem.allocate.division import divider
from meristem.axes import Axis, AxisMap
from meristem.edit.deepen import DepthChange
from meristem.errors import ConfigError, EditError
from meristem.grow import Growth, Method, require_gains
from meristem.grow import require_defined as require_growth
from meristem.ledger import Entry, Exchange, Rewiring
from meristem.plasticity.choice import Choice
from meristem.plasticity.layers import Layers
from meristem.prune import Criterion, Removal
from meristem.prune import require_defined as require_criterion
from meristem.schedule import Action, Demand, Schedule
from meristem.signals import Running, Statistic, View

Plan: TypeAlias = Growth | Removal | Turnover

PARTS: Mapping[Action, tuple[str, ...]] = {
    "grow": ("grow",),
    "prune": ("prune",),
    "replace": ("grow", "prune"),
    "exchange": ("exchange",),
    "deepen": ("deepen",),
    "shorten": ("shorten",),
}
"""By which arguments of a controller each action is carried out."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What a demand comes to; carried out in this order.

    Attributes:
        plans: for axes, one transaction.
        rewirings: of single weights.
        changes: of the module tree, one transaction.
        entries: what was bought and sold, if it was an exchange; else None.
        owed: by axis name, the part of a unit by which replacement at a rate is behind afterwards; below `*` what
            rounding has left of shares to prune, below `**` the share that is `Gone`.
        notes: why it is less than what was asked for.
    """

    plans: Sequence[Plan] = ()
    rewirings: Sequence[Rewiring] = ()
    changes: Sequence[DepthChange] = ()
    entries: tuple[Entry, ...] | None = None
    owed: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def edits(self) -> list[Plan]:
        """The plans that change anything."""
        return [plan for plan in self.plans if isinstance(plan, Removal) or plan.births]


class Planner:
    """How demands are carried out: by a growth method, a criterion and an allocator; by an exchange; or with layers.

    Args:
        method: makes newborns, or None.
        criterion: says who dies, or None.
        allocator: divides amounts over axes.
        exchange: trades structure of all levels, or None.
        layers: inserts and removes layers.
    """

    def __init__(
        self,
        method: Method | None,
        criterion: Criterion | None,
        allocator: Allocator,
        exchange: Exchange | None,
        layers: Layers,
    ) -> None:
        self._method = method
        self._criterion = criterion
        self._allocator = allocator
        self._exchange = exchange
        self._layers = layers
        self._given = {
            "grow": method,
            "prune": criterion,
            "exchange": exchange,
            "deepen": layers.deepen,
            "shorten": layers.shorten,
        }
        self._known: list[tuple[AxisMap, Demand, tuple[Statistic, ...]]] = []

    def require(self, schedule: Schedule, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        """Refuse at once what could only fail later.

        Raises:
            ConfigError: the schedule asks for something without a method or criterion, or without gains.
            EditError: the method or criterion is not defined for a chosen axis; there is no layer to insert or remove.
            UnknownAxisError: there are limits for axes that there are not.
        """
        for action in sorted(schedule.actions):
            missing = [part for part in PARTS[action] if self._given[part] is None]
            if missing:
                raise ConfigError(f"the schedule asks to {action}, but Plasticity(..., {missing[0]}=...) was not given")
        self._require_defined(axes, chosen)
        for action in sorted(schedule.actions):
            require_known(self._allocator.for_action(action).limits, axes)
        if self._method is not None:
            if "grow" in schedule.actions and self._allocator.for_action("grow").wants_gains:
                require_gains(self._method, type(self._allocator).__name__)
            if "replace" in schedule.actions and self._method.one_axis_at_a_time:
                raise ConfigError(
                    f"{type(self._method).__name__} makes newborns for one axis at a time, so it cannot replace units"
                )
        self._layers.require(axes)

    def unable(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why an axis cannot be edited by what was given, or None if it can."""
        try:
            self._require_defined(axes, [axis])
        except EditError as error:
            return str(error)
        return None

    def running(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Running, ...]:
        """What has to be averaged all along, so that units can be scored at any time."""
        found: list[Statistic] = []
        if self._criterion is not None:
            found += (needed for axis in chosen for needed in self._criterion.needs(axes, axis))
        if self._exchange is not None:
            found += self._exchange.running(axes, chosen)
        return tuple(dict.fromkeys(needed for needed in found if isinstance(needed, Running)))

    def parts(self, view: View, chosen: Sequence[Axis], demand: Demand) -> Parts:
        """A demand as several, one after another: layers one by one, axes if the method wants one at a time; and which
        limits keep back some of it before it comes in parts. What keeps back the rest, `plan` says."""
        if demand.action in ("deepen", "shorten") and isinstance(demand.amount, int):
            return Parts((replace(demand, amount=1),) * demand.amount, ())
        if self._one_by_one(demand):
            return axis_by_axis(view, chosen, demand, self._allocator)
        return Parts((demand,), ())

    def _one_by_one(self, demand: Demand) -> bool:
        """Whether axes grow one at a time, as far as the allocator knows how much without asking the method."""
        growing = demand.action == "grow" and self._method is not None and self._method.one_axis_at_a_time
        return growing and not divider(demand, self._allocator).wants_gains

    def needs(self, axes: AxisMap, chosen: Sequence[Axis], demands: Iterable[Demand]) -> tuple[Statistic, ...]:
        """What has to be recorded just before demands are carried out. Found out once for every demand and map."""
        found: dict[Statistic, None] = {}
        for demand in demands:
            found.update(dict.fromkeys(self._needed(axes, chosen, demand)))
        return tuple(found)

    def plan(self, view: View, choice: Choice, demand: Demand, owed: Mapping[str, float]) -> Decision:
        """What a demand comes to.

        Args:
            view: the model today, with what the demand needs.
            choice: the axes that may be edited.
            demand: what is asked for.
            owed: what earlier demands for a `Rate`, or for a share to prune, have left.

        Raises:
            ConfigError: the loss must be evaluated, and no closure was given.
        """
        method, criterion, allocator, chosen = self._method, self._criterion, self._allocator, choice.axes(view.axes)
        for part in PARTS[demand.action]:
            _require_closure(self._given[part], view)
        if demand.action == "grow" and method is not None:
            growing = plan_growth(view, chosen, demand, method, allocator)
            return Decision(growing.plans, owed=owed, notes=growing.notes)
        if demand.action == "prune" and criterion is not None:
            found = plan_next_pruning(view, chosen, demand, criterion, allocator, owed)
            given = sum(len(plan.units) for plan in found.plans)
            return Decision(found.plans, owed=found.owed, notes=_fewer(demand, given, found.asked))
        if demand.action == "replace" and method is not None and criterion is not None:
            plans, owed = plan_turnover(view, chosen, demand, method, criterion, allocator, owed)
            return Decision(plans, owed=owed)
        if demand.action == "exchange" and self._exchange is not None:
            trade = self._exchange.trade(view, chosen, demand)
            return Decision(trade.plans, trade.rewirings, trade.changes, trade.entries, owed)
        changes = self._layers.plan(view, demand, choice)
        asked = demand.amount if isinstance(demand.amount, int) else 0
        return Decision(changes=changes, owed=owed, notes=_fewer(demand, len(changes), asked))

    def _require_defined(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        if self._method is not None:
            require_growth(self._method, axes, chosen)
        if self._criterion is not None:
            require_criterion(self._criterion, axes, chosen)
        if self._exchange is not None:
            self._exchange.require(axes, chosen)

    def _needed(self, axes: AxisMap, chosen: Sequence[Axis], demand: Demand) -> tuple[Statistic, ...]:
        self._known = [known for known in self._known if known[0] is axes]
        for _, known, needed in self._known:
            if known == demand:
                return needed
        found: dict[Statistic, None] = {}
        if self._exchange is not None and demand.action == "exchange":
            found.update(dict.fromkeys(self._exchange.needs(axes, chosen, demand)))
        if self._method is not None and demand.action in ("grow", "replace"):
            for axis, most in self._most(axes, chosen, demand).items():
                found.update(dict.fromkeys(self._method.needs(axes, axis, most)))
        if self._criterion is not None and demand.action in ("prune", "replace"):
            scored = by_axis(demand.amount, chosen) if isinstance(demand.amount, Mapping) else chosen
            for axis in scored:
                found.update(dict.fromkeys(self._criterion.needs(axes, axis)))
        needed = tuple(statistic for statistic in found if not isinstance(statistic, Running))
        self._known.append((axes, demand, needed))
        return needed

    def _most(self, axes: AxisMap, chosen: Sequence[Axis], demand: Demand) -> Mapping[Axis, int]:
        """For how many newborns the method may be asked on each axis."""
        if demand.action == "replace":
            return replaceable(chosen, demand)
        return at_most(axes, chosen, demand, self._allocator)


def _fewer(demand: Demand, given: int, asked: int) -> tuple[str, ...]:
    """Why less was done than was asked for; pruning that has met its budget is done."""
    met = demand.action == "prune" and demand.budget is not None
    if met or given >= asked:
        return ()
    what = "layers" if demand.action in ("deepen", "shorten") else "units"
    return (f"{demand.action}: {given} of {asked} {what}, more do not go within limits and budget",)


def _require_closure(part: object, view: View) -> None:
    if getattr(part, "requires_closure", False) and view.closure is None:
        raise ConfigError(
            f"{type(part).__name__} evaluates the training loss itself: call plasticity.step(loss, closure) with a "
            "function that computes it"
        )
