"""Exchange: growth and pruning together, in one ledger, at every level that has a market."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.ledger.account import Account, gathers_of
from meristem.ledger.entry import Key, Ladder, Level, Lot, summed
from meristem.ledger.market import Market, Taken
from meristem.ledger.matching import match
from meristem.ledger.trade import Trade
from meristem.ledger.weights import rewired
from meristem.schedule import Demand
from meristem.signals import Running, Statistic, View


@dataclass(frozen=True)
class Exchange:
    """At each edit births of the highest predicted gain per operation are bought, and paid for with deaths of the
    lowest predicted loss per operation, at all levels at once.

        exchange = Exchange([Units(TINY(), Protect(Taylor(), age=200))])
        plasticity = Plasticity(model, optimizer, x, exchange=exchange, schedule=Every(100, exchange=0.05))

    A budget says what the net may take afterwards, in effective operations of a forward pass on the example; without
    one that is what it takes today. Where it is less than today, the cheapest deaths make up for it; where it is more,
    the best births fill it; beyond that a birth is bought only if it is worth more than `margin` times the deaths that
    pay for it. So nothing changes hands in a net to which no trade would do good.

    Attributes:
        markets: at most one for each level.
        margin: births have to be worth so many times the deaths that pay for them (default 1.0). Above 1 it leaves room
            for what first-order gains promise and do not keep, and for what an edit upsets.

    Raises:
        ConfigError: no market, two markets of one level, or a margin that is not positive.

    Fails: gains and losses are first-order predictions on the recorded batches. On one small batch noise looks like a
    gain: raise `listen` and `margin`.
    """

    markets: Sequence[Market]
    margin: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "markets", tuple(self.markets))
        levels = [market.level for market in self.markets]
        if not levels or len(set(levels)) < len(levels):
            raise ConfigError(f"Exchange(markets=...) needs markets, one for each level at most; got {levels}")
        if not self.margin > 0:
            raise ConfigError(f"Exchange(margin=...) must be above 0, got {self.margin!r}")

    @property
    def requires_closure(self) -> bool:
        """Whether a market evaluates the loss."""
        return any(market.requires_closure for market in self.markets)

    def require(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        """Refuse at once what could only fail later, see `Market.require`."""
        for market in self.markets:
            market.require(axes, chosen)

    def running(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Running, ...]:
        """What has to be averaged all along."""
        return tuple(dict.fromkeys(one for market in self.markets for one in market.running(axes, chosen)))

    def needs(self, axes: AxisMap, chosen: Sequence[Axis], demand: Demand) -> tuple[Statistic, ...]:
        """What has to be recorded just before a demand is met."""
        most = _most(demand, Account(axes))  # masks may change before the demand is met, the map may not
        return tuple(dict.fromkeys(one for market in self.markets for one in market.needs(axes, chosen, most)))

    def trade(self, view: View, chosen: Sequence[Axis], demand: Demand) -> Trade:
        """What changes hands.

        Args:
            view: the model today, with what `needs` says.
            chosen: the axes that may be edited.
            demand: `amount` bounds the operations of all births together: a share of today's effective operations
                (float), or their number (int). `budget.flops`: effective operations afterwards, at most; it is exceeded
                only where nothing more may die.

        Raises:
            ConfigError: the budget bounds something else, or the amount is by axis.
        """
        account = self._account(view.axes)
        most, bound = _most(demand, account), _bound(demand, account)
        ladders = [one for market in self.markets for one in market.offers(view, chosen, account, most)]
        known: dict[Level, dict[Any, Any]] = {market.level: {} for market in self.markets}
        while True:
            taken, after = self._within(ladders, account, bound, most)
            made = {market.level: market.made(view, _of(taken, market), known[market.level]) for market in self.markets}
            short = {key: count for one in made.values() for key, count in one.short.items()}
            dear = {key: factor for one in made.values() for key, factor in one.dear.items()}
            if not short and not dear:
                break
            ladders = [one.up_to(short[one.key]) if one.key in short else one for one in ladders]
            ladders = [one.times(dear[one.key]) if one.key in dear else one for one in ladders]
        return Trade(
            plans=tuple(plan for one in made.values() for plan in one.plans),
            rewirings=tuple(rewiring for one in made.values() for rewiring in one.rewirings),
            changes=tuple(change for one in made.values() for change in one.changes),
            entries=summed(lot for lots in taken.values() for lot in lots),
            flops=(account.flops, after),
        )

    def _account(self, axes: AxisMap) -> Account:
        masks: dict[str, Tensor] = {}
        for market in self.markets:
            masks |= market.masks
        return Account(axes, masks)

    def _within(self, ladders: Sequence[Ladder], account: Account, bound: float, most: float) -> tuple[Taken, float]:
        """The match whose effective operations, counted exactly, keep to the bound.

        Costs add up only as long as no two axes of one parameter change; what they really come to is counted, and as
        much as it is above the bound taken off the room, until it is not.
        """
        room = bound - account.flops
        while True:
            taken = match(ladders, room, most, self.margin)
            after = _after(account, taken)
            excess = after - bound
            if excess <= 0 or _sold_out(ladders, taken):
                return taken, after
            room -= excess


def _of(taken: Taken, market: Market) -> Taken:
    return {key: lots for key, lots in taken.items() if key.level == market.level}


def _most(demand: Demand, account: Account) -> float:
    """Up to how many operations may be bought."""
    if not isinstance(demand.amount, (int, float)):
        raise ConfigError(
            f"an exchange is asked for a share of today's operations (float) or for operations (int), got "
            f"{demand.amount!r}"
        )
    return float(demand.amount) if isinstance(demand.amount, int) else demand.amount * account.flops


def _bound(demand: Demand, account: Account) -> float:
    """What effective operations may come to."""
    budget = demand.budget
    if budget is None or not budget:
        return account.flops
    if replace(budget, flops=None):
        raise ConfigError(f"an exchange keeps to a budget of flops only, got {budget!r}")
    return inf if budget.flops is None else float(budget.flops)


def _after(account: Account, taken: Taken) -> float:
    births: dict[str, int] = {}
    deaths: dict[str, list[int]] = {}
    weights: dict[Key, tuple[Lot, ...]] = {}
    changes = [lot.change for lots in taken.values() for lot in lots if lot.change is not None]
    for key, lots in taken.items():
        if key.level == "weight":
            weights[key] = lots
        elif key.level == "layer":
            continue
        elif key.kind == "birth":
            births[key.where] = sum(lot.entry.count for lot in lots)
        else:
            deaths[key.where] = [unit for lot in lots for unit in lot.members]
    masks: Mapping[str, Tensor] = {**account.masks, **rewired(account.masks, weights)}
    return account.after(gathers_of(account.axes, births, deaths), masks, changes)


def _sold_out(ladders: Sequence[Ladder], taken: Taken) -> bool:
    """Whether all that may die does, and nothing is born."""
    return not any(key.kind == "birth" for key in taken) and all(
        len(taken.get(one.key, ())) == len(one.lots) for one in ladders if one.key.kind == "death"
    )
