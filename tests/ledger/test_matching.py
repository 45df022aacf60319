"""The matching, against all choices there are."""

from __future__ import annotations

import random
from itertools import product
from math import inf

import pytest

from meristem.ledger import Entry, Key, Ladder, Lot, match


def ladder(kind: str, where: str, worths: list[float], costs: list[float], **settings) -> Ladder:
    lots = [Lot(Entry("unit", kind, where, 1, w, c)) for w, c in zip(worths, costs, strict=True)]
    return Ladder(Key("unit", kind, where), tuple(lots), **settings)


def drawn(seed: int, cost) -> list[Ladder]:
    """Up to three places with births and deaths; prices fall and rise."""
    source = random.Random(seed)
    found = []
    for place in range(source.randint(1, 3)):
        for kind in ("birth", "death"):
            c = cost(source)
            worths = sorted((source.random() * c for _ in range(source.randint(1, 3))), reverse=kind == "birth")
            found.append(ladder(kind, f"{place}", worths, [c] * len(worths)))
    return found


def value(ladders: list[Ladder], counts: list[int], margin: float) -> tuple[float, float, float]:
    """Births minus margin times deaths; the change of operations; operations of births."""
    worth = change = bought = 0.0
    for one, count in zip(ladders, counts, strict=True):
        birth = one.key.kind == "birth"
        for lot in one.lots[:count]:
            worth += lot.entry.worth if birth else -margin * lot.entry.worth
            change += lot.entry.cost if birth else -lot.entry.cost
            bought += lot.entry.cost if birth else 0
    return worth, change, bought


def counts(ladders: list[Ladder], taken) -> list[int]:
    return [len(taken.get(one.key, ())) for one in ladders]


def best(ladders: list[Ladder], room: float, most: float, margin: float) -> float:
    """The value of the best of all choices that keep to room and amount."""
    found = -inf
    for tried in product(*(range(len(one.lots) + 1) for one in ladders)):
        worth, change, bought = value(ladders, list(tried), margin)
        if change <= room + 1e-12 and bought <= most:
            found = max(found, worth)
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("room", "most", "margin"), [(0, inf, 1.0), (2, 3, 1.0), (-2, inf, 1.0), (0, 2, 1.7)])
def test_equal_costs_best_of_all(seed: int, room: float, most: float, margin: float) -> None:
    ladders = drawn(seed, lambda source: 1.0)
    taken = match(ladders, room, most, margin)
    worth, change, bought = value(ladders, counts(ladders, taken), margin)
    possible = best(ladders, room, most, margin)
    if possible == -inf:  # there is not enough to sell
        assert all(len(taken.get(o.key, ())) == len(o.lots) for o in ladders if o.key.kind == "death")
        return
    assert change <= room
    assert bought <= most
    assert worth == pytest.approx(possible, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_any_costs_within_budget_and_a_lot_of_the_best(seed: int) -> None:
    ladders = drawn(seed, lambda source: source.choice([1.0, 2.0, 3.0, 5.0]))
    taken = match(ladders, 0.0)
    worth, change, _ = value(ladders, counts(ladders, taken), 1.0)
    largest = {kind: max(o.lots[0].entry.worth for o in ladders if o.key.kind == kind) for kind in ("birth", "death")}
    assert change <= 1e-12
    assert worth >= 0
    assert worth >= best(ladders, 0.0, inf, 1.0) - largest["birth"] - largest["death"]


def test_nothing_changes_hands_where_nothing_pays() -> None:
    assert match([ladder("birth", "a", [1.0], [1.0]), ladder("death", "b", [1.1], [1.0])], 0.0) == {}
    assert match([ladder("birth", "a", [1.0], [1.0]), ladder("death", "b", [0.6], [1.0])], 0.0, margin=2.0) == {}


def test_room_is_filled_and_what_is_lacking_is_freed_first() -> None:
    births, deaths = ladder("birth", "a", [0.1, 0.05], [1.0, 1.0]), ladder("death", "b", [3.0, 5.0], [2.0, 2.0])
    assert counts([births, deaths], match([births, deaths], 1.0)) == [1, 0]
    assert counts([births, deaths], match([births, deaths], -1.0)) == [1, 1]  # what is freed too much buys a birth
    assert counts([births, deaths], match([births, deaths], -9.0)) == [0, 2]


def test_prices_and_sums_of_entries() -> None:
    entry = Entry("unit", "birth", "a", 2, 3.0, 4.0)
    assert entry.price == 0.75
    assert entry + entry == Entry("unit", "birth", "a", 4, 6.0, 8.0)
    assert Entry("unit", "birth", "a", 1, 1.0, 0.0).price == inf
    assert Entry("unit", "death", "a", 1, 0.0, 0.0).price == 0.0
    one = ladder("birth", "a", [3.0, 2.0, 1.0], [1.0] * 3)
    assert [lot.entry.worth for lot in one.up_to(2).times(0.5).lots] == [1.5, 1.0]


def test_deaths_that_nobody_needs_are_taken_back() -> None:
    births = ladder("birth", "a", [9.0], [4.0])
    small, large = ladder("death", "b", [0.1], [1.0]), ladder("death", "c", [1.0], [4.0])
    assert counts([births, small, large], match([births, small, large], 0.0)) == [1, 0, 1]


def test_a_place_that_is_no_multiple_gains_or_loses() -> None:
    births, deaths = (ladder(k, "a", [w], [1.0], alone=True) for k, w in (("birth", 2.0), ("death", 1.0)))
    assert match([births, deaths], 0.0) == {}
    other = ladder("death", "b", [1.5], [1.0])
    assert counts([births, deaths, other], match([births, deaths, other], 0.0)) == [1, 0, 1]
