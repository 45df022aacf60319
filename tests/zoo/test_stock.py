"""Models of timm and Hugging Face: all axes in one edit (halving names the culprit), some on their own."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from meristem.axes.map import Axis

from .judge import (
    Subject,
    attempt,
    comparable,
    culprits,
    drift,
    grown,
    growth_check,
    half,
    permutation_check,
    prune_check,
    subject,
)
from .models import STOCK_ROWS

TOLERANCE = 1e-9
SAMPLE, FEW = 2, 9
"""So many axes of each model are judged on their own; all of them where there are few."""


@pytest.fixture(scope="module", params=STOCK_ROWS, ids=lambda row: row.name)
def traced(request: pytest.FixtureRequest) -> Subject:
    return subject(request.param)


def sample(traced: Subject) -> Sequence[Axis]:
    """A few editable axes, always the same ones."""
    axes = traced.axes.editable
    return axes if len(axes) <= FEW else random.Random(len(axes)).sample(axes, SAMPLE)


CHECKS = {
    "prune to half": prune_check(half),
    "prune to one unit": prune_check(lambda size: 1),
    "grow by 1": growth_check(lambda size: 1, TOLERANCE),
    "grow by 3": growth_check(lambda size: 3, TOLERANCE),
}


def test_reorder_all(traced: Subject) -> None:
    assert not culprits(permutation_check, traced, traced.axes.editable)


def test_prune_all_that_can_be_compared(traced: Subject) -> None:
    compared = comparable(traced.axes.editable)
    assert compared, "no axis can be compared"
    assert not culprits(prune_check(half), traced, compared)


def test_prune_everything_to_half(traced: Subject) -> None:
    assert not culprits(prune_check(half, compare=False), traced, traced.axes.editable)


def test_grow_all_exact(traced: Subject) -> None:
    exact = [axis for axis in traced.axes.editable if axis.exact]
    assert not culprits(growth_check(lambda size: 3, TOLERANCE), traced, exact)


def test_grow_everything_by_one(traced: Subject) -> None:
    assert not culprits(growth_check(lambda size: 1, TOLERANCE), traced, traced.axes.editable)


def test_prune_everything_to_one_unit(traced: Subject) -> None:
    """Or to the fewest that the model's code works with."""
    assert not culprits(prune_check(lambda size: 1, compare=False), traced, traced.axes.editable)


def test_prune_one_unit_of_everything(traced: Subject) -> None:
    assert not culprits(prune_check(lambda size: max(1, size - 1), compare=False), traced, traced.axes.editable)


def test_exact_growth_in_single_precision(traced: Subject) -> None:
    """All exact axes at once, the model as it is used: relative drift at most 1e-5."""
    model = traced.row.model(torch.float32)
    single = replace(traced, model=model, axes=replace(traced.axes, model_reference=weakref.ref(model)))
    exact = [axis for axis in traced.axes.editable if axis.exact]
    assert drift(grown(single, exact, lambda size: 1).answers(), single.answers()) <= 1e-5


def test_grow_everything_by_a_quarter(traced: Subject) -> None:
    assert not culprits(growth_check(lambda size: max(1, size // 4), TOLERANCE), traced, traced.axes.editable)


@pytest.mark.heavy
@pytest.mark.parametrize("what", CHECKS)
def test_some_axes_on_their_own(traced: Subject, what: str) -> None:
    problems = {axis.name: attempt(CHECKS[what], traced, [axis]) for axis in sample(traced)}
    assert not {name: problem for name, problem in problems.items() if problem}
