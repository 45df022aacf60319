"""Budgets of pruning: the smallest removal in the order of a ranking, against trying all of them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import log2

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from meristem.allocate import Alike, Allocator, Custom, Limits, Offer, Proportional, Ranked, Uniform, plan_pruning
from meristem.allocate.division import divided
from meristem.allocate.limits import limits_of
from meristem.allocate.linked import linked
from meristem.allocate.nested import Nested
from meristem.allocate.scored import scores_of
from meristem.axes import AxisMap, trace
from meristem.prune import GroupNorm, Magnitude
from meristem.recipes import shrink
from meristem.schedule import Budget, Demand
from meristem.signals import View


class Residual(nn.Module):
    """Axes with few units that cost much beside one with many that cost little."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.c, self.d = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32)
        self.e, self.out = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.b(self.a(x)))
        h = h + torch.relu(self.d(self.c(h)))
        return self.out(torch.relu(self.e(h)).mean((2, 3)))


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Conv2d(64, 8, 1),
    )  # fmt: skip


IMAGE = torch.zeros(1, 3, 16, 16)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Residual() if name == "residual" else plain()


@cache
def traced(name: str) -> tuple[nn.Module, AxisMap]:
    model = build(name)
    return model, trace(model, IMAGE)


def offered(axes: AxisMap, limits: Limits) -> list[Offer]:
    return [
        Offer(axis, "prune", limits_of(limits, axis).counts("prune", axis.size, axis.size), axes, scores, None)
        for axis in axes.editable
        for scores in [scores_of(View(axes), axis, GroupNorm())]
    ]


def cost(axes: AxisMap, offers, counts) -> int:
    sizes = list(axes.sizes)
    for offer, count in zip(offers, counts, strict=True):
        sizes[offer.axis.index] -= count
    return axes.flops(sizes)


ALLOCATORS: list[Allocator] = [
    Ranked(),
    Ranked(per="flop"),
    Proportional(),
    Uniform(),
    Alike(),
    Custom(lambda offers, total: [offer.axis.size**0.5 for offer in offers]),
]


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda a: f"{type(a).__name__}{getattr(a, 'per', '')}")
@pytest.mark.parametrize("name", ["residual", "plain"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_smallest_removal_of_the_ranking_against_all_of_them(name, allocator, multiple):
    """It lies within the first one, in order, that meets the bound, and nothing of it can stay."""
    _, axes = traced(name)
    offers = offered(axes, Limits(multiple=multiple))
    nested = Nested(allocator, offers)
    units = sum(offer.most for offer in offers)
    every = [nested.removal(n) for n in range(8 * units)]
    for less, more in pairwise(every):
        assert all(one <= other for one, other in zip(less, more, strict=True))
    for share in (0.95, 0.8, 0.6, 0.45, 0.3):
        bound = share * axes.flops()
        first = next((counts for counts in every if cost(axes, offers, counts) <= bound), None)
        found = nested.smallest(units, lambda counts, bound=bound: cost(axes, offers, counts) <= bound)
        assert (found is None) == (first is None)
        if found is None or first is None:
            continue
        assert all(count <= most for count, most in zip(found, first, strict=True))
        assert cost(axes, offers, found) <= bound
        for group in linked(len(offers), allocator.links(offers)):
            back = list(found)
            for number in group:
                back[number] = offers[number].at_most(found[number] - 1) if found[number] else 0
            assert tuple(back) == found or cost(axes, offers, back) > bound


@given(share=st.floats(0.15, 0.95), name=st.sampled_from(["residual", "plain"]), multiple=st.sampled_from([1, 4, 8]))
def test_a_budget_is_met_and_nothing_of_the_plans_can_stay(share, name, multiple):
    _, axes = traced(name)
    allocator, bound = Ranked(limits=Limits(multiple=multiple)), share * axes.flops()
    offers = offered(axes, Limits(multiple=multiple))
    assume(cost(axes, offers, [offer.most for offer in offers]) <= bound)
    everything = Demand("prune", sum(axis.size for axis in axes.editable), Budget(flops=bound))
    plans = plan_pruning(View(axes), axes.editable, everything, Magnitude(), allocator)
    gone = {plan.axis.index: len(plan.units) for plan in plans}

    def after(counts):
        return axes.flops([size - counts.get(number, 0) for number, size in enumerate(axes.sizes)])

    assert after(gone) <= bound
    for offer in offers:
        lost = gone.get(offer.axis.index, 0)
        assert not lost or after({**gone, offer.axis.index: offer.at_most(lost - 1)}) > bound


@pytest.mark.parametrize(
    ("criterion", "asked", "left"),
    [(GroupNorm(), 0.9, 0.85), (GroupNorm(), 0.5, 0.48), (GroupNorm(), 0.4, 0.39), (Magnitude(), 0.4, 0.38)],
)
def test_multiples_do_not_make_shrink_go_far_beyond_the_target(criterion, asked, left):
    """Where a multiple of 8 units makes room for few dear ones, a larger amount may cost more."""
    model = build("residual")
    found = shrink(model, IMAGE, flops=asked, criterion=criterion)
    assert left <= found.change.flops[1] / found.change.flops[0] <= asked


def test_a_budget_takes_about_as_many_divisions_as_bisection():
    _, axes = traced("residual")
    asked: list[int] = []

    def counted(offers, total):
        asked.append(total)
        return [offer.axis.size for offer in offers]

    offers, units = offered(axes, Limits(multiple=8)), sum(axis.size for axis in axes.editable)
    for share in (0.9, 0.5, 0.3):
        asked.clear()
        divided(Demand("prune", units, Budget(flops=share * axes.flops())), axes.editable, Custom(counted), offers)
        assert len(set(asked)) <= log2(units) + 3
        assert len(asked) <= log2(units) + 6


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda a: f"{type(a).__name__}{getattr(a, 'per', '')}")
@pytest.mark.parametrize("amount", [1, 5, 12, 30])
def test_a_budget_takes_no_more_than_was_asked_for_and_that_is_rounded_by_half_a_multiple(allocator, amount):
    _, axes = traced("residual")
    offers = offered(axes, Limits(multiple=8))
    asked = allocator.counts(amount, offers)
    assert sum(asked) <= amount + 4 or isinstance(allocator, Alike)
    for share in (0.99, 0.9, 0.5, 1e-9):
        budget = Budget(flops=max(1.0, share * axes.flops()))
        found = divided(Demand("prune", amount, budget), axes.editable, allocator, offers)
        assert sum(found) <= sum(asked)
        assert share > 1e-9 or found == asked
