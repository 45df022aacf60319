"""Matching: the best births are bought as long as they are worth more than the deaths that pay for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from meristem.ledger.entry import Key, Ladder, Lot


@dataclass(eq=False)
class _Position:
    """How far ladders have been climbed, and what that has cost so far.

    Attributes:
        ladders: by key.
        room: operations that could be spent without a further death; negative: so many have to be freed.
        taken: by key, the number of lots.
        bought: operations of all births.
    """

    ladders: Mapping[Key, Ladder]
    room: float
    taken: dict[Key, int] = field(default_factory=dict)
    bought: float = 0.0

    def next(self, key: Key, ahead: int = 0) -> Lot | None:
        """The lot that comes next on a ladder, `ahead` lots from now; None if there is none, or none may be taken."""
        ladder = self.ladders[key]
        place = self.taken.get(key, 0) + ahead
        if place >= len(ladder.lots) or (ladder.alone and self.taken.get(_opposite(key), 0)):
            return None
        return ladder.lots[place]

    def payment(self, needed: float, beside: Key | None = None) -> tuple[dict[Key, int], float, float] | None:
        """The cheapest deaths that free so many operations: how many lots of each ladder, the loss, what they free.

        None if there are not enough. Of equal prices the first ladder pays.
        """
        ahead: dict[Key, int] = {}
        loss = freed = 0.0
        while freed < needed:
            best: tuple[float, Key, Lot] | None = None
            for key, ladder in self.ladders.items():
                if key.kind == "birth" or (ladder.alone and beside == _opposite(key)):
                    continue
                lot = self.next(key, ahead.get(key, 0))
                if lot is not None and lot.entry.cost > 0 and (best is None or lot.entry.price < best[0]):
                    best = lot.entry.price, key, lot
            if best is None:
                return None
            _, key, lot = best
            ahead[key] = ahead.get(key, 0) + 1
            loss, freed = loss + lot.entry.worth, freed + lot.entry.cost
        return ahead, loss, freed

    def sell(self, payment: tuple[dict[Key, int], float, float]) -> None:
        """Let these die."""
        for key, count in payment[0].items():
            self.taken[key] = self.taken.get(key, 0) + count
        self.room += payment[2]

    def buy(self, key: Key, lot: Lot) -> None:
        """Let this be born."""
        self.taken[key] = self.taken.get(key, 0) + 1
        self.room -= lot.entry.cost
        self.bought += lot.entry.cost


def match(ladders: Sequence[Ladder], room: float, most: float = inf, margin: float = 1.0) -> dict[Key, tuple[Lot, ...]]:
    """Which lots change hands.

    What the room lacks is freed first, by the deaths of the lowest price. Then the births of the highest price are
    bought one after the other: out of the room that is there, or paid for by the cheapest deaths, as long as a birth is
    worth more than `margin` times the loss by the deaths that it takes. A birth that does not pay, or for which there
    is no room, ends its ladder; others go on. At the end deaths that nobody needed are taken back, the dearest first.

    Where all lots cost the same, no other choice is worth more (births minus `margin` times deaths). Else the problem
    is a knapsack, and what is lost against the best choice is less than what the lots at the margin are worth.

    Args:
        ladders: all that is offered; prices fall along ladders of births and rise along those of deaths.
        room: operations that may be added to what there is; negative: so many have to go.
        most: operations of all births together, at most.
        margin: see above.

    Returns:
        by key the lots taken; keys without any are missing.
    """
    at = _Position({ladder.key: ladder for ladder in ladders}, room)
    if room < 0:
        at.sell(at.payment(-room) or _everything(at))
    open_ = [key for key in at.ladders if key.kind == "birth"]
    while open_ and at.room >= 0:
        heads = [(lot.entry.price, key, lot) for key in open_ if (lot := at.next(key)) is not None]
        if not heads:
            break
        price, key, lot = max(heads, key=lambda head: head[0])
        payment = at.payment(lot.entry.cost - at.room, key)
        paid = payment is not None and lot.entry.worth > margin * payment[1]
        if payment is None or not paid or price <= 0 or at.bought + lot.entry.cost > most:
            open_.remove(key)
            continue
        at.sell(payment)
        at.buy(key, lot)
    _take_back(at)
    return {key: at.ladders[key].lots[:count] for key, count in at.taken.items() if count}


def _everything(at: _Position) -> tuple[dict[Key, int], float, float]:
    """All deaths that there are."""
    found = {key: ladder.lots for key, ladder in at.ladders.items() if key.kind == "death"}
    lots = [lot.entry for several in found.values() for lot in several]
    return {key: len(several) for key, several in found.items()}, sum(e.worth for e in lots), sum(e.cost for e in lots)


def _take_back(at: _Position) -> None:
    """Undo deaths for which the room suffices without them."""
    while True:
        last = [(at.ladders[key].lots[n - 1].entry, key) for key, n in at.taken.items() if n and key.kind == "death"]
        spare = [(entry.worth, key, entry) for entry, key in last if entry.cost <= at.room]
        if not spare:
            return
        _, key, entry = max(spare, key=lambda found: found[0])
        at.taken[key] -= 1
        at.room -= entry.cost


def _opposite(key: Key) -> Key:
    return Key(key.level, "death" if key.kind == "birth" else "birth", key.where)
