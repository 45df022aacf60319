"""Entries: what could be born or die, what that is worth, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from meristem.edit.deepen import DepthChange

Level: TypeAlias = Literal["unit", "weight", "layer"]
Kind: TypeAlias = Literal["birth", "death"]


@dataclass(frozen=True)
class Entry:
    """A birth or a death, of one or several at once.

    Attributes:
        level: what is born or dies: units, single weights, or layers.
        kind: "birth" or "death".
        where: the name of the axis, of the parameter, or of the place.
        count: how many.
        worth: in units of loss: the predicted decrease by a birth, the predicted increase by a death.
        cost: floating-point operations of a forward pass on the example, that a birth takes or a death frees.
    """

    level: Level
    kind: Kind
    where: str
    count: int
    worth: float
    cost: float

    @property
    def price(self) -> float:
        """Worth per operation; what costs nothing has an infinite one if it is worth anything, else 0."""
        if self.cost > 0:
            return self.worth / self.cost
        return inf if self.worth > 0 else 0.0

    def __add__(self, other: Entry) -> Entry:
        """Both, at the same place."""
        return replace(
            self, count=self.count + other.count, worth=self.worth + other.worth, cost=self.cost + other.cost
        )


class Key(NamedTuple):
    """What an entry is about."""

    level: Level
    kind: Kind
    where: str


@dataclass(frozen=True, eq=False)
class Lot:
    """What is traded at once.

    Attributes:
        entry: the entry.
        members: the numbers of those that die, or of the weights that are born; newborn units have none yet.
        change: of the module tree, for layers.
    """

    entry: Entry
    members: tuple[int, ...] = ()
    change: DepthChange | None = None


@dataclass(frozen=True, eq=False)
class Ladder:
    """The lots of one kind at one place, to be taken from the first one on.

    Attributes:
        key: what they are about.
        lots: in the order in which they are to be taken: the best birth, the cheapest death first.
        alone: whether deaths exclude births at this place and the other way round.
    """

    key: Key
    lots: tuple[Lot, ...]
    alone: bool = field(default=False, kw_only=True)

    def up_to(self, count: int) -> Ladder:
        """Only lots that add up to at most so many births or deaths."""
        total, kept = 0, 0
        for lot in self.lots:
            total += lot.entry.count
            if total > count:
                break
            kept += 1
        return replace(self, lots=self.lots[:kept])

    def times(self, factor: float) -> Ladder:
        """All lots at so many times their worth."""
        lots = [replace(lot, entry=replace(lot.entry, worth=factor * lot.entry.worth)) for lot in self.lots]
        return replace(self, lots=tuple(lots))


def summed(lots: Iterable[Lot]) -> tuple[Entry, ...]:
    """One entry for every kind at every place."""
    found: dict[Key, Entry] = {}
    for lot in lots:
        key = Key(lot.entry.level, lot.entry.kind, lot.entry.where)
        found[key] = found[key] + lot.entry if key in found else lot.entry
    return tuple(found.values())
