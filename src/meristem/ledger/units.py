"""The market of units: newborns by the gain that a growth method predicts, deaths by the loss that a criterion does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from meristem.allocate import Limits, Turnover, takes_places
from meristem.allocate.limits import LimitsByName, limits_of
from meristem.allocate.planning import proposed
from meristem.allocate.scored import scores_of
from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.grow import Growth, Method, predicted_gains, require_gains
from meristem.grow import require_defined as require_growth
from meristem.ledger.account import Account
from meristem.ledger.entry import Entry, Key, Kind, Ladder, Level, Lot
from meristem.ledger.market import Made, Market, Taken
from meristem.ledger.trade import Plan
from meristem.prune import CRITERIA, Criterion
from meristem.prune import require_defined as require_criterion
from meristem.signals import Running, Statistic, View


@dataclass(frozen=True)
class Units(Market):
    """Units of the chosen axes.

    A birth is worth what its growth method predicts. Methods whose newborns contribute at once (TINY, Firefly) predict
    minus the derivative of the loss in the amplitude times the amplitude: the first-order change by the newborn's move.
    Methods whose newborns change nothing at birth (GradMax, GradMaxOpt, Candidates) predict the squared norm of their
    gradient: gradient descent of learning rate eta moves a weight by `-eta g`, which changes the loss by `-eta g^2` in
    first order, and T steps with the same gradient by `-T eta g^2`. So they need `rate = T eta`, the sum of the
    learning rates (by momentum mu: divided by 1 - mu) over the steps that newborns are given credit for. Splitting and
    SENN predict a decrease of second order.

    A death is worth what the criterion says: `|dL/dm|` of a gate m (Taylor), the first-order change if the gate goes
    from 1 to 0 and nobody makes up for it.

    An axis at most doubles at one edit. Units may die and be born on the same axis: newborns take their places.

    Attributes:
        grow: makes newborns; it must predict gains.
        prune: scores units; scores must be predicted changes of the loss. `Protect(Taylor(), age=...)` keeps newborns.
        limits: minimum, maximum and multiple of each axis, see `Allocator`. Births and deaths keep to them each by
            itself. Where an axis is no multiple yet, it gains or loses at one edit.
        rate: see above.

    Raises:
        ConfigError: the rate is not positive; it is missing, or given to a method that predicts decreases of the loss;
            the method predicts no gains, the criterion no changes of the loss.

    Fails: everything is first order. Gains of several axes that feed each other are counted twice, and the loss by a
    unit that a later step would make up for is not forgiven: trade a little at a time.
    """

    level: ClassVar[Level] = "unit"

    grow: Method
    prune: Criterion
    limits: LimitsByName = field(default_factory=Limits, kw_only=True)
    rate: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_gains(self.grow, "Units")
        if not self.prune.predicts_loss:
            able = ", ".join(sorted({type(c).__name__ for c in CRITERIA if c.predicts_loss}))
            raise ConfigError(
                f"Units holds deaths against births, but the scores of {type(self.prune).__name__} are no changes of "
                f"the loss; those of {able} are"
            )
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"Units(rate=...) is a sum of learning rates above 0, got {self.rate!r}")
        name, needed = type(self.grow).__name__, self.grow.gains_per_rate
        if needed and self.rate is None:
            raise ConfigError(
                f"{name} predicts gains per unit of learning rate; give Units(rate=...), the learning rate times the "
                "number of steps for which newborns are given credit, to make them decreases of the loss"
            )
        if not needed and self.rate is not None:
            raise ConfigError(f"{name} predicts decreases of the loss; leave out Units(rate=...)")

    @property
    def requires_closure(self) -> bool:
        return self.grow.requires_closure or self.prune.requires_closure

    def require(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        require_growth(self.grow, axes, chosen)
        require_criterion(self.prune, axes, chosen)
        if self.grow.one_axis_at_a_time:
            raise ConfigError(f"{type(self.grow).__name__} makes newborns for one axis at a time: it cannot exchange")

    def running(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Running, ...]:
        asked = (needed for axis in chosen for needed in self.prune.needs(axes, axis))
        return tuple(dict.fromkeys(needed for needed in asked if isinstance(needed, Running)))

    def needs(self, axes: AxisMap, chosen: Sequence[Axis], most: float) -> tuple[Statistic, ...]:
        account, found = Account(axes), []
        for axis in chosen:
            count = self._births(axis, account, most)
            found += self.grow.needs(axes, axis, count) if count else ()
            found += self.prune.needs(axes, axis)
        return tuple(dict.fromkeys(statistic for statistic in found if not isinstance(statistic, Running)))

    def offers(self, view: View, chosen: Sequence[Axis], account: Account, most: float) -> tuple[Ladder, ...]:
        found = []
        for axis in chosen:
            limits = limits_of(self.limits, axis)
            alone = axis.size % limits.multiple != 0
            born = self._born(view, axis, account, most)
            dead = self._dead(view, axis, account, limits)
            found += [Ladder(Key("unit", "birth", axis.name), born, alone=alone)] if born else []
            found += [Ladder(Key("unit", "death", axis.name), dead, alone=alone)] if dead else []
        return tuple(found)

    def made(self, view: View, taken: Taken, known: dict[Any, Any]) -> Made:
        births = {key.where: sum(lot.entry.count for lot in lots) for key, lots in taken.items() if key.kind == "birth"}
        dead = {
            key.where: [u for lot in lots for u in lot.members] for key, lots in taken.items() if key.kind == "death"
        }
        grown = {
            name: proposed(view, view.axes.by_name[name], count, self.grow, known) for name, count in births.items()
        }
        short = {
            Key("unit", "birth", name): growth.births for name, growth in grown.items() if growth.births < births[name]
        }
        clash = {name for name in grown.keys() & dead.keys() if not takes_places(grown[name])}
        short |= {Key("unit", _loser(births[name], len(dead[name])), name): 0 for name in clash}
        worth = {key.where: sum(lot.entry.worth for lot in lots) for key, lots in taken.items() if key.kind == "birth"}
        dear = {
            Key("unit", "birth", name): kept
            for name, growth in grown.items()
            if (kept := self._kept(growth, worth[name])) < 1
        }
        if short or dear:
            return Made(short=short, dear=dear)
        settled = {growth.axis.name: growth for growth in self.grow.settled(view, list(grown.values()))}
        return Made(plans=tuple(self._plan(view, name, settled, dead) for name in dict.fromkeys((*settled, *dead))))

    def _plan(self, view: View, name: str, grown: dict[str, Growth], dead: dict[str, list[int]]) -> Plan:
        if name not in dead:
            return grown[name]
        removal = self.prune.removal(view, view.axes.by_name[name], sorted(dead[name]))
        if name not in grown:
            return removal
        return Turnover(grown[name], removal, dict(enumerate(view.axes.sizes)))

    def _kept(self, growth: Growth, promised: float) -> float:
        """Which part of its promise a plan keeps: methods may find out, by the loss itself, that less is more."""
        kept = sum(growth.gains) * (self.rate or 1.0) / promised if growth.gains and promised > 0 else 1.0
        return kept if kept < 1 - _ROUNDING else 1.0

    def _births(self, axis: Axis, account: Account, most: float) -> int:
        """How many newborns an axis could be given."""
        cost = account.birth(axis)
        ceiling = min(axis.size, int(most / cost)) if cost > 0 else axis.size
        counts = limits_of(self.limits, axis).counts("grow", axis.size, axis.size)
        return max((count for count in counts if count <= ceiling), default=0)

    def _born(self, view: View, axis: Axis, account: Account, most: float) -> tuple[Lot, ...]:
        count, cost = self._births(axis, account, most), account.birth(axis)
        if not count:
            return ()
        gains = predicted_gains(self.grow, view, axis, count, "Units") * (self.rate or 1.0)
        counts = [n for n in limits_of(self.limits, axis).counts("grow", axis.size, axis.size) if n <= len(gains)]
        steps = zip([0, *counts], counts, strict=False)
        return tuple(
            Lot(Entry("unit", "birth", axis.name, end - start, float(gains[start:end].sum()), (end - start) * cost))
            for start, end in steps
        )

    def _dead(self, view: View, axis: Axis, account: Account, limits: Limits) -> tuple[Lot, ...]:
        scores, costs = scores_of(view, axis, self.prune), account.deaths(axis)
        order = (scores / costs.clamp(min=1e-12)).argsort(stable=True)
        order = order[scores[order].isfinite()]
        counts = limits.counts("prune", axis.size, len(order))
        steps = zip([0, *counts], counts, strict=False)
        return tuple(_death(axis, order[start:end], scores, costs) for start, end in steps)


_ROUNDING = 1e-6
"""Differences of worths below this share are none."""


def _death(axis: Axis, units: Tensor, scores: Tensor, costs: Tensor) -> Lot:
    worth, cost = float(scores[units].clamp(min=0).sum()), float(costs[units].sum())
    return Lot(Entry("unit", "death", axis.name, len(units), worth, cost), tuple(units.tolist()))


def _loser(births: int, deaths: int) -> Kind:
    """Which of the two gives way where newborns cannot take the places of the dead."""
    return "death" if births >= deaths else "birth"
