"""Gathers of one axis: construction, composition, refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meristem.edit import Gather
from meristem.errors import EditError

MADE: Any = Gather
"""Untyped: wrong arguments are what is tested."""


def test_constructors():
    assert Gather.keep(4, [3, 1]).sources == (1, 3)
    assert Gather.prune(4, [3, 1]).sources == (0, 2)
    assert Gather.prune(4, torch.tensor([True, False, False, True])).sources == (1, 2)
    assert Gather.grow(2, 3) == Gather((0, 1, -1, -1, -1), (False, False, True, True, True))
    assert Gather.permute([2, 0, 1]).sources == (2, 0, 1)
    assert Gather.permute(torch.tensor([1, 0])).sources == (1, 0)
    assert Gather.duplicate(2, [1, 1, 0]) == Gather((0, 1, 1, 1, 0), (False, False, True, True, True))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: MADE.keep(4, []), "no units given"),
        (lambda: MADE.prune(4, []), "no units given"),
        (lambda: MADE.prune(2, [0, 1]), "these are all 2 of them"),
        (lambda: MADE.prune(4, [4]), "unknown unit 4: the axis has 4 units, numbered from 0 to 3"),
        (lambda: MADE.prune(4, [-1]), "unknown unit -1"),
        (lambda: MADE.prune(4, [1, 2, 1]), "unit 1 is given twice"),
        (lambda: MADE.prune(4, [1.0]), "whole number"),
        (lambda: MADE.prune(4, [True]), "whole number"),
        (lambda: MADE.prune(4, 3), "sequence of unit numbers"),
        (lambda: MADE.prune(4, torch.tensor([1.0])), "whole numbers"),
        (lambda: MADE.prune(4, torch.tensor([True, False])), "mask over 4 units"),
        (lambda: MADE.keep(4, torch.zeros(4, dtype=torch.bool)), "no units given"),
        (lambda: MADE.grow(4, 0), "from 1"),
        (lambda: MADE.grow(4, -1), "from 1"),
        (lambda: MADE.grow(4, 2.5), "whole number"),
        (lambda: MADE.grow(4, 2**60), "from 1"),
        (lambda: MADE.permute([0, 0]), "given twice"),
        (lambda: MADE.permute([0, 2]), "unknown unit 2"),
        (lambda: MADE.duplicate(2, [2]), "unknown unit 2"),
        (lambda: Gather((), ()), "at least one unit"),
        (lambda: Gather((0, 1), (False,)), "2 sources but 1"),
        (lambda: Gather((-2,), (True,)), "got -2"),
        (lambda: Gather((-1,), (False,)), "flagged newborn"),
        (lambda: Gather((0, 0), (False, False)), "two incumbents"),
        (lambda: MADE.grow(2, 1).then(MADE.keep(4, [3])), "unknown unit 3"),
    ],
)
def test_what_makes_no_sense_is_refused(make, expected):
    with pytest.raises(EditError, match=expected):
        make()


@st.composite
def gathers(draw, size: int):
    """Any gather of an axis of that size."""
    order = draw(st.permutations(range(size)))
    kept = order[: draw(st.integers(1, size))]
    extra = draw(st.lists(st.integers(-1, size - 1), max_size=4))
    units = draw(st.permutations([*((u, False) for u in kept), *((u, True) for u in extra)]))
    return Gather(tuple(u for u, _ in units), tuple(new for _, new in units))


@given(st.data())
def test_composition_is_gathering_twice(data):
    size = data.draw(st.integers(1, 8))
    first = data.draw(gathers(size))
    second = data.draw(gathers(len(first)))
    values = torch.arange(size + 1)
    values[-1] = -1  # what a unit without a source reads
    once = torch.cat([values[list(first.sources)], torch.tensor([-1])])
    both = first.then(second)
    assert values[list(both.sources)].tolist() == once[list(second.sources)].tolist()
    assert both.newborn == tuple(
        new or first.newborn[source] for source, new in zip(second.sources, second.newborn, strict=True)
    )
