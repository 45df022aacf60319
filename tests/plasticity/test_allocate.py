"""Allocation: what is divided adds up, limits hold, and each allocator divides as it says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meristem.allocate import (
    Limits,
    Offer,
    Proportional,
    Ranked,
    Separately,
    Uniform,
    choose,
    plan_growth,
    plan_pruning,
)
from meristem.allocate.limits import limits_of
from meristem.axes import Axis, trace
from meristem.errors import ConfigError, EditError, FrozenAxisError, UnknownAxisError
from meristem.grow import ZeroFanOut
from meristem.prune import Criterion, Magnitude, Protect
from meristem.schedule import Budget, Demand
from meristem.signals import View
from tests.plasticity.models import build


def axis(index: int, size: int) -> Axis:
    return Axis(index, f"layer{index}", size, "features", None, frozenset())


def offers(action, sizes, limits=None, total=10**6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    limits = Limits() if limits is None else limits
    scores = [torch.rand(n, generator=generator, dtype=torch.float64) * 10**i for i, n in enumerate(sizes)]
    return [
        Offer(axis(i, n), action, limits.counts(action, n, total if action == "grow" else n), scores[i])
        for i, n in enumerate(sizes)
    ]


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)
limits = st.builds(
    lambda low, more, multiple: Limits(low, None if more is None else low + more, multiple),
    st.integers(1, 12),
    st.none() | st.integers(0, 40),
    st.sampled_from([1, 1, 2, 8]),
)


@given(action=st.sampled_from(["grow", "prune"]), size=st.integers(1, 40), most=st.integers(0, 40), limits=limits)
def test_limits_are_the_sizes_they_say(action, size, most, limits):
    most = min(most, size) if action == "prune" else most
    found = list(limits.counts(action, size, most))
    sign = 1 if action == "grow" else -1
    after = [size + sign * n for n in range(1, most + limits.multiple + 1)]
    if action == "grow":
        nearest = -(-(size + most) // limits.multiple) * limits.multiple
        allowed = [n for n in after if n <= nearest and (limits.maximum is None or n <= limits.maximum)]
    else:
        allowed = [n for n in after if n >= limits.minimum and size - n <= most]
    assert found == [abs(n - size) for n in allowed if n % limits.multiple == 0]


@given(
    action=st.sampled_from(["grow", "prune"]),
    sizes=sizes,
    limits=limits,
    total=st.integers(0, 150),
    allocator=st.sampled_from([Uniform(), Proportional(), Ranked()]),
)
def test_counts_are_allowed_and_add_up(action, sizes, limits, total, allocator):
    found = offers(action, sizes, limits, total)
    counts = allocator.counts(total, found)
    assert all(n == 0 or n in offer.counts for n, offer in zip(counts, found, strict=True))
    room = sum(offer.most for offer in found)
    if limits.multiple == 1:
        assert sum(counts) == min(total, room)
    elif sum(counts) < total:  # only because the next step of every axis would overshoot by more than it falls short
        steps = [offer.after(n) for n, offer in zip(counts, found, strict=True)]
        assert all(s is None or s - n > 2 * (total - sum(counts)) for n, s in zip(counts, steps, strict=True))
    else:
        assert 2 * (sum(counts) - total) <= limits.multiple


@given(sizes=sizes, total=st.integers(0, 200))
def test_uniform_and_proportional_shares(sizes, total):
    uniform = Uniform().counts(total, offers("grow", sizes, total=total))
    assert max(uniform) - min(uniform) <= 1
    proportional = Proportional().counts(total, offers("grow", sizes, total=total))
    ideal = [total * n / sum(sizes) for n in sizes]
    assert all(abs(n - x) < 1 for n, x in zip(proportional, ideal, strict=True))


@given(sizes=sizes, total=st.integers(0, 100), seed=st.integers(0, 5))
def test_ranked_takes_the_lowest_of_all_units(sizes, total, seed):
    found = offers("prune", sizes, seed=seed)
    total = min(total, sum(offer.most for offer in found))
    counts = Ranked().counts(total, found)
    relative = [scores / scores.mean() for offer in found if (scores := offer.scores) is not None]
    # brute force: always remove the unit with the lowest relative score among axes with more than one unit left
    left = [sorted(scores.tolist()) for scores in relative]
    for _ in range(total):
        lowest = min((s for s in left if len(s) > 1), key=lambda s: s[0])
        lowest.pop(0)
    assert list(counts) == [n - len(s) for n, s in zip(sizes, left, strict=True)]


def test_ranked_refuses_growth_and_names_the_remedy():
    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(ConfigError, match="Separately"):
        plan_growth(View(axes), axes.editable, Demand("grow", 3), ZeroFanOut(), Ranked())
    plans = plan_growth(
        View(axes), axes.editable, Demand("grow", 4), ZeroFanOut(), Separately(grow=Uniform(), prune=Ranked())
    )
    assert [plan.births for plan in plans] == [2, 2]


def test_separately_keeps_the_limits_of_each():
    both = Separately(grow=Uniform(Limits(maximum=11)), prune=Proportional(Limits(minimum=6)))
    model, x = build("mlp")
    axes = trace(model, x)
    grown = plan_growth(View(axes), axes.editable, Demand("grow", 20), ZeroFanOut(), both)
    pruned = plan_pruning(View(axes), axes.editable, Demand("prune", 20), Magnitude(), both)
    assert {p.axis.name: p.births for p in grown} == {"0": 1, "3": 4}
    assert {p.axis.name: len(p.units) for p in pruned} == {"0": 4, "3": 1}


def test_limits_by_pattern_take_the_first_that_matches():
    by_name = {"layer1": Limits(minimum=5), "layer*": Limits(multiple=8)}
    assert limits_of(by_name, axis(1, 9)) == Limits(minimum=5)
    assert limits_of(by_name, axis(2, 9)) == Limits(multiple=8)
    assert limits_of({"other": Limits(minimum=5)}, axis(2, 9)) == Limits()


@pytest.mark.parametrize("make", [lambda: Limits(0), lambda: Limits(4, 3), lambda: Limits(multiple=0)])
def test_nonsense_limits_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_floor_holds_under_global_ranking():
    model, x = build("mlp")
    model[3].weight.data.mul_(1e-6)
    axes = trace(model, x)
    allocator = Ranked({"3": Limits(minimum=4), "*": Limits(minimum=2)})
    plans = plan_pruning(View(axes), axes.editable, Demand("prune", 100), Magnitude(), allocator)
    assert {p.axis.name: p.axis.size - len(p.units) for p in plans} == {"0": 2, "3": 4}


def test_the_lowest_scores_die():
    model, x = build("mlp")
    axes = trace(model, x)
    scores = Magnitude().scores(View(axes), axes["0"])
    (plan,) = plan_pruning(View(axes), [axes["0"]], Demand("prune", 0.3), Magnitude(), Uniform())
    assert set(plan.units) == set(scores.argsort()[:3].tolist())


def test_protected_units_are_never_taken():
    model, x = build("mlp")
    axes = trace(model, x)
    view = View(axes, 10, {"0": torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 100, 100])})
    (plan,) = plan_pruning(view, [axes["0"]], Demand("prune", 9), Protect(Magnitude(), age=50), Uniform())
    assert plan.units == (8, 9)


def test_scores_that_cannot_be_ranked_are_refused():
    class Broken(Criterion):
        def scores(self, view, axis):
            return torch.full((axis.size,), torch.nan)

    class Short(Criterion):
        def scores(self, view, axis):
            return torch.ones(3)

    model, x = build("mlp")
    axes = trace(model, x)
    for criterion in (Broken(), Short()):
        with pytest.raises(EditError, match=type(criterion).__name__):
            plan_pruning(View(axes), axes.editable, Demand("prune", 2), criterion, Uniform())


def sizes_after(axes, plans, sign):
    found = list(axes.sizes)
    for plan in plans:
        found[plan.axis.index] += sign * (plan.births if sign > 0 else len(plan.units))
    return found


@pytest.mark.parametrize("measure", ["parameters", "flops"])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_budget_stops_growth_just_before_and_pruning_just_after(measure, multiple):
    model, x = build("convolutions")
    axes = trace(model, x)
    size = axes.parameter_count if measure == "parameters" else axes.flops
    allocator = Uniform(Limits(multiple=multiple))

    bound = 3 * size()
    grown = plan_growth(
        View(axes), axes.editable, Demand("grow", 50, Budget(**{measure: bound})), ZeroFanOut(), allocator
    )
    births = sum(plan.births for plan in grown)
    assert size(sizes_after(axes, grown, 1)) <= bound
    more = plan_growth(View(axes), axes.editable, Demand("grow", births + multiple), ZeroFanOut(), allocator)
    assert size(sizes_after(axes, more, 1)) > bound

    bound = size() // 2
    demand = Demand("prune", 9, Budget(**{measure: bound}))
    pruned = plan_pruning(View(axes), axes.editable, demand, Magnitude(), Uniform())
    deaths = sum(len(plan.units) for plan in pruned)
    assert size(sizes_after(axes, pruned, -1)) <= bound
    less = plan_pruning(View(axes), axes.editable, Demand("prune", deaths - 1), Magnitude(), Uniform())
    assert size(sizes_after(axes, less, -1)) > bound


def test_a_budget_that_is_reached_leaves_nothing_to_do():
    model, x = build("mlp")
    axes = trace(model, x)
    small, large = Budget(parameters=1), Budget(parameters=1e9)
    assert not plan_growth(View(axes), axes.editable, Demand("grow", 5, small), ZeroFanOut(), Uniform())
    assert not plan_pruning(View(axes), axes.editable, Demand("prune", 5, large), Magnitude(), Uniform())
    (first, second) = plan_pruning(View(axes), axes.editable, Demand("prune", 5, small), Magnitude(), Uniform())
    assert len(first.units) + len(second.units) == 5


def test_choosing_axes():
    model, x = build("attention")
    axes = trace(model, x)
    assert choose(axes, None) == axes.editable
    assert choose(axes, "up") == (axes["up"],)
    assert set(choose(axes, ["u*", "stem"])) == {axes["up"], axes["stem"]}
    assert choose(axes, lambda a: a.size == 12) == (axes["up"],)
    assert choose(axes, "down.weight") == (axes["stem"],), "by the tensor that produces it"


def test_choosing_what_cannot_be_edited_says_why():
    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(FrozenAxisError, match="model output"):
        choose(axes, "5")
    with pytest.raises(UnknownAxisError, match="did you mean"):
        choose(axes, ["0", "layer9"])
    with pytest.raises(UnknownAxisError, match="predicate"):
        choose(axes, lambda a: False)
