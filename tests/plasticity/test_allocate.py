"""Allocation: what is divided adds up, limits hold, and each allocator divides as it says."""

import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import meristem
from meristem.allocate import (
    Alike,
    Bottleneck,
    Custom,
    Limits,
    Offer,
    Proportional,
    Ranked,
    Separately,
    Uniform,
    at_most,
    choose,
    plan_growth,
    plan_pruning,
)
from meristem.allocate.limits import limits_of
from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Gather
from meristem.errors import ConfigError, EditError, FrozenAxisError, UnknownAxisError
from meristem.grow import Growth, Method, ZeroFanOut
from meristem.prune import Criterion, Magnitude, Protect
from meristem.schedule import At, Budget, Demand
from meristem.signals import View
from tests.plasticity.models import build


def axis(index: int, size: int) -> Axis:
    return Axis(index, f"layer{index}", size, "features", None, frozenset())


def offers(action, sizes, limits=None, total=10**6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    limits = Limits() if limits is None else limits
    axes = AxisMap(tuple(axis(i, n) for i, n in enumerate(sizes)), {}, (), (), (), weakref.ref(torch.nn.Identity()))
    found = []
    for i, n in enumerate(sizes):
        offer = Offer(axes.axes[i], action, limits.counts(action, n, total if action == "grow" else n), axes)
        if action == "grow":
            count = min(offer.most, 20)  # a method that predicts for some newborns only
            gains = torch.rand(count, generator=generator, dtype=torch.float64).sort(descending=True).values
            found.append(replace(offer, gains=gains * (i + 1)))
        else:
            scores = torch.rand(n, generator=generator, dtype=torch.float64) * 10**i
            found.append(replace(offer, scores=scores))
    return found


@dataclass(frozen=True)
class Predicting(ZeroFanOut):
    """Predicts given gains by axis name, and gives no more newborns than it predicts."""

    predicted: dict[str, list[float]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def gains(self, view, axis, count):
        return torch.tensor(self.predicted[axis.name][:count], dtype=torch.float32)

    def propose(self, view, axis, count):
        self.asked.append((axis.name, count))
        given = min(count, len(self.predicted[axis.name]))
        if given == count:
            return super().propose(view, axis, count)
        gather = Gather.grow(axis.size, given) if given else Gather.keep(axis.size, range(axis.size))
        return Growth(axis, gather, self, note=f"rank {given} for {count}")


def growth(name, predicted, demand, allocator):
    """Births and notes by axis name, of a method that predicts these gains."""
    model, x = build(name)
    axes = trace(model, x)
    chosen = [axes[axis] for axis in predicted]
    plans = plan_growth(View(axes), chosen, demand, Predicting(predicted=predicted), allocator).plans
    return {p.axis.name: p.births for p in plans}, {p.axis.name: p.note for p in plans if p.note}


MLP, INPUT = build("mlp")
MLP_AXES = trace(MLP, INPUT)

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
    allocator=st.sampled_from(
        [Uniform(), Proportional(), Ranked(), Custom(lambda offers, total: [o.axis.size**0.5 for o in offers])]
    ),
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


@given(sizes=sizes, limits=limits, total=st.integers(0, 150), seed=st.integers(0, 5))
def test_bottleneck_fills_the_largest_first(sizes, limits, total, seed):
    found = offers("grow", sizes, limits, total, seed)
    counts = Bottleneck().counts(total, found)
    assert all(n == 0 or n in offer.counts for n, offer in zip(counts, found, strict=True))
    if limits.multiple > 1:
        return
    assert sum(counts) == min(total, sum(offer.most for offer in found))
    room = {i: float(o.gains.sum()) for i, o in enumerate(found) if counts[i] < o.most}
    given = [i for i, n in enumerate(counts) if n]
    for i in given:  # nobody with a larger bottleneck has room left
        mine = float(found[i].gains.sum())
        assert all(other <= mine for j, other in room.items() if j != i)


@given(sizes=sizes, total=st.integers(0, 60), seed=st.integers(0, 5))
def test_ranked_makes_the_best_newborns_of_all(sizes, total, seed):
    found = offers("grow", sizes, total=total, seed=seed)
    total = min(total, sum(len(offer.gains) for offer in found))
    counts = Ranked().counts(total, found)
    pool = sorted((-g, i) for i, offer in enumerate(found) for g in offer.gains[: offer.most].tolist())
    assert list(counts) == [sum(i == j for _, j in pool[:total]) for i in range(len(sizes))]


def test_ranked_holds_gains_against_what_units_cost():
    model, x = build("convolutions")
    axes = trace(model, x)
    first, second = axes["0"], axes["5"]
    offer = Offer(first, "grow", range(1, 9), axes)
    # channels of the first convolution: 2 * 9 weights and a bias, 2 of BatchNorm, a 3 x 3 filter and a bias of the
    # depthwise one, and 9 weights in each of 4 filters that read them
    assert offer.cost("unit") == 1
    assert offer.cost("parameter") == 2 * 9 + 1 + 2 + 9 + 1 + 4 * 9
    assert offer.cost("flop") == axes.flops([n + (i == first.index) for i, n in enumerate(axes.sizes)]) - axes.flops()
    assert Offer(second, "grow", range(1, 9), axes).cost("parameter") == 6 * 9 + 1 + 16 * 3

    gains = {"0": [1.0] * 4, "5": [1.2] * 4}  # the second is better, but costs more
    assert growth("convolutions", gains, Demand("grow", 3), Ranked())[0] == {"5": 3}
    assert growth("convolutions", gains, Demand("grow", 3), Ranked(per="parameter"))[0] == {"0": 3}
    flops = [Offer(a, "grow", range(1, 9), axes).cost("flop") for a in (first, second)]
    better = "0" if 1.0 / flops[0] > 1.2 / flops[1] else "5"
    assert growth("convolutions", gains, Demand("grow", 3), Ranked(per="flop"))[0] == {better: 3}


def test_ranked_prunes_what_costs_most_for_its_worth():
    model, x = build("convolutions")
    axes = trace(model, x)
    both = [axes["0"], axes["5"]]
    offers = [Offer(a, "prune", range(1, a.size), axes, torch.ones(a.size, dtype=torch.float64)) for a in both]
    costs = [offer.cost("parameter") for offer in offers]
    assert costs[1] > costs[0]
    assert Ranked(per="parameter").counts(3, offers) == (0, 3)


def test_what_costs_nothing_comes_first():
    cheap, dear = offers("grow", [4, 4], total=4)  # in this map no unit costs anything
    assert Ranked(per="flop").counts(4, [replace(cheap, gains=-cheap.gains), dear]) == (0, 4)


@pytest.mark.parametrize("allocator", [Ranked(), Bottleneck(), Custom(lambda offers, total: [1], gains=True)])
def test_gains_are_needed_where_they_are_divided_by(allocator):
    model, x = build("mlp")
    axes = trace(model, x)
    demand = Demand("grow", 4)
    with pytest.raises(ConfigError, match=r"ZeroFanOut does not predict.*Separately"):
        plan_growth(View(axes), axes.editable, demand, ZeroFanOut(), allocator)
    separately = Separately(grow=Uniform(), prune=allocator)
    plans = plan_growth(View(axes), axes.editable, demand, ZeroFanOut(), separately).plans
    assert [plan.births for plan in plans] == [2, 2]


def test_bottleneck_does_not_divide_pruning():
    with pytest.raises(ConfigError, match="Separately"):
        Bottleneck().counts(3, offers("prune", [4, 4]))


def test_gains_are_asked_for_only_if_wanted():
    class Silent(Predicting):
        def gains(self, view, axis, count):
            raise AssertionError("nobody wanted to know")

    model, x = build("mlp")
    axes = trace(model, x)
    method = Silent(predicted={"0": [1.0] * 9, "3": [1.0] * 9})
    assert plan_growth(View(axes), axes.editable, Demand("grow", 4), method, Uniform()).plans
    with pytest.raises(AssertionError, match="nobody"):
        plan_growth(View(axes), axes.editable, Demand("grow", 4), method, Bottleneck())


def test_gains_that_cannot_be_ranked_are_refused():
    with pytest.raises(EditError, match="NaN"):
        growth("mlp", {"0": [1.0, float("nan")], "3": [1.0]}, Demand("grow", 2), Ranked())

    class Many(Predicting):
        def gains(self, view, axis, count):
            return torch.ones(count + 1)

    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(EditError, match="at most"):
        plan_growth(View(axes), axes.editable, Demand("grow", 2), Many(), Bottleneck())


def test_bottleneck_passes_on_what_is_above_a_limit():
    gains = {"0": [1.0] * 20, "3": [2.0] * 20}
    assert growth("mlp", gains, Demand("grow", 5), Bottleneck())[0] == {"3": 5}
    assert growth("mlp", gains, Demand("grow", 5), Bottleneck({"3": Limits(maximum=9)}))[0] == {"0": 3, "3": 2}


def test_custom_divides_by_the_function():
    seen = []

    def by_gain(offers, total):
        seen.append(total)
        return [float(offer.gains.sum()) for offer in offers]

    gains = {"0": [3.0, 3.0], "3": [1.0, 1.0]}
    assert growth("mlp", gains, Demand("grow", 2), Custom(by_gain, gains=True))[0] == {"0": 2}
    assert seen == [2]
    exactly = Custom(lambda offers, total: [1, total - 1])
    assert exactly.counts(7, offers("grow", [4, 4])) == (1, 6)


@pytest.mark.parametrize("shares", [[1], [1, -1], [0, 0], [1, float("nan")], [1, float("inf")]])
def test_custom_shares_must_make_sense(shares):
    with pytest.raises(ConfigError, match="2 numbers"):
        Custom(lambda offers, total: shares).counts(7, offers("grow", [4, 4]))


def test_what_a_method_does_not_give_goes_to_the_others():
    gains = {"0": [1.0] * 2, "3": [1.0] * 20}
    births, notes = growth("mlp", gains, Demand("grow", 10), Uniform())
    assert births == {"0": 2, "3": 8}
    assert notes == {"0": "rank 2 for 5"}


def test_what_nobody_gives_is_said():
    births, notes = growth("mlp", {"0": [1.0] * 2, "3": []}, Demand("grow", 10), Uniform())
    assert births == {"0": 2, "3": 0}
    assert notes == {"0": "rank 2 for 5", "3": "rank 0 for 5"}


def test_a_method_that_gives_fewer_is_asked_once_for_each_number():
    model, x = build("mlp")
    axes = trace(model, x)
    method = Predicting(predicted={"0": [1.0] * 2, "3": [1.0] * 20})
    plan_growth(View(axes), axes.editable, Demand("grow", 10), method, Uniform())
    assert method.asked == [("0", 5), ("3", 5), ("3", 8)]


@given(
    lengths=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    amount=st.integers(1, 20) | st.sampled_from([0.5, {"0": 3}, {"0": 1, "3": 7}]),
    allocator=st.sampled_from([Uniform(), Proportional(Limits(multiple=4)), Ranked(), Bottleneck(Limits(maximum=9))]),
    bound=st.none() | st.integers(100, 700),
)
def test_a_method_is_never_asked_for_more_than_foreseen(lengths, amount, allocator, bound):
    class Counting(Predicting):
        def gains(self, view, axis, count):
            self.asked.append((axis.name, count))
            return super().gains(view, axis, count)

    demand = Demand("grow", amount, None if bound is None else Budget(parameters=bound))
    method = Counting(predicted={name: [1.0] * n for name, n in zip(("0", "3"), lengths, strict=True)})
    plan_growth(View(MLP_AXES), MLP_AXES.editable, demand, method, allocator)
    foreseen = {axis.name: most for axis, most in at_most(MLP_AXES, MLP_AXES.editable, demand, allocator).items()}
    assert all(count <= foreseen[name] for name, count in method.asked)


def test_multiples_hold_where_a_method_gives_fewer():
    gains = {"0": [1.0] * 5, "3": [1.0] * 20}  # sizes 10 and 7: 2 + 4 k and 1 + 4 k newborns are allowed
    births, notes = growth("mlp", gains, Demand("grow", 12), Uniform(Limits(multiple=4)))
    assert births == {"0": 2, "3": 9}
    assert notes == {"0": "rank 5 for 6; of these 2, because its size is to be a multiple of 4"}
    births, notes = growth("mlp", {"0": [1.0], "3": [1.0] * 20}, Demand("grow", 12), Uniform(Limits(multiple=4)))
    assert births == {"3": 13, "0": 0}
    assert notes == {"0": "rank 1 for 6; of these 0, because its size is to be a multiple of 4"}


def test_budgets_hold_where_a_method_gives_fewer():
    model, x = build("mlp")
    axes = trace(model, x)
    bound = axes.parameter_count() + 100
    gains = {"0": [1.0] * 2, "3": [1.0] * 50}
    births, _ = growth("mlp", gains, Demand("grow", 40, Budget(parameters=bound)), Uniform())
    after = [n + births.get(a.name, 0) for a, n in zip(axes, axes.sizes, strict=True)]
    more = [n + (a.name == "3") for a, n in zip(axes, after, strict=True)]
    assert axes.parameter_count(after) <= bound < axes.parameter_count(more)


def test_a_method_must_not_give_more_than_asked():
    class Generous(ZeroFanOut):
        def propose(self, view, axis, count):
            return super().propose(view, axis, count + 1)

    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(EditError, match="Generous gave 3"):
        plan_growth(View(axes), [axes["0"]], Demand("grow", 2), Generous(), Uniform())


def test_fewer_without_a_reason_is_said_too():
    class Terse(Method):
        def propose(self, view, axis, count):
            return ZeroFanOut().propose(view, axis, 1)

    model, x = build("mlp")
    axes = trace(model, x)
    (plan,) = plan_growth(View(axes), [axes["0"]], Demand("grow", 2), Terse(), Uniform()).plans
    assert (plan.births, plan.note) == (1, "Terse gave 1 of 2 units")


@pytest.mark.parametrize("allocator", [Uniform(), Bottleneck(), Separately(grow=Ranked())])
def test_a_demand_may_say_what_each_axis_gets(allocator):
    gains = {"0": [1.0] * 20, "3": [9.0] * 20}
    assert growth("mlp", gains, Demand("grow", {"0": 3}), allocator)[0] == {"0": 3}
    assert growth("mlp", gains, Demand("grow", {"3": 1, "0": 4}), allocator)[0] == {"0": 4, "3": 1}
    assert growth("mlp", gains, Demand("grow", {"0": 0}), allocator)[0] == {}


def test_units_by_axis_keep_limits_and_are_given_to_no_other():
    gains = {"0": [1.0] * 2, "3": [1.0] * 20}
    births, notes = growth("mlp", gains, Demand("grow", {"0": 4, "3": 9}), Uniform(Limits(maximum=12)))
    assert births == {"0": 2, "3": 5}
    assert not notes
    births, notes = growth("mlp", gains, Demand("grow", {"0": 4, "3": 1}), Uniform())
    assert births == {"0": 2, "3": 1}
    assert notes == {"0": "rank 2 for 4"}
    births, _ = growth("mlp", {"0": [1.0] * 20}, Demand("grow", {"0": 5}), Uniform(Limits(multiple=8)))
    assert births == {"0": 6}, "16 is the nearest multiple to 15"


@given(asked=st.fixed_dictionaries({"0": st.integers(0, 12), "3": st.integers(0, 12)}), bound=st.integers(100, 700))
def test_units_by_axis_keep_the_budget(asked, bound):
    axes = MLP_AXES
    demand = Demand("grow", asked, Budget(parameters=bound))
    plans = plan_growth(View(axes), axes.editable, demand, ZeroFanOut(), Uniform()).plans
    births = {p.axis.name: p.births for p in plans}
    assert all(births.get(name, 0) <= count for name, count in asked.items())
    assert axes.parameter_count(sizes_after(axes, plans, 1)) <= max(bound, axes.parameter_count())
    if axes.parameter_count([n + asked.get(a.name, 0) for a, n in zip(axes, axes.sizes, strict=True)]) <= bound:
        assert births == {name: count for name, count in asked.items() if count}


def test_units_by_axis_can_be_pruned():
    model, x = build("mlp")
    axes = trace(model, x)
    plans = plan_pruning(View(axes), axes.editable, Demand("prune", {"3": 99}), Magnitude(), Ranked())
    assert {p.axis.name: len(p.units) for p in plans} == {"3": 6}
    plans = plan_pruning(View(axes), axes.editable, Demand("prune", {"3": 2, "0": 5}), Magnitude(), Ranked())
    assert {p.axis.name: len(p.units) for p in plans} == {"0": 5, "3": 2}


def test_units_for_an_axis_that_may_not_be_edited_are_refused():
    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(ConfigError, match="'3', which may not be edited; chosen: 0"):
        plan_growth(View(axes), [axes["0"]], Demand("grow", {"3": 1}), ZeroFanOut(), Uniform())


def test_separately_keeps_the_limits_of_each():
    both = Separately(grow=Uniform(Limits(maximum=11)), prune=Proportional(Limits(minimum=6)))
    model, x = build("mlp")
    axes = trace(model, x)
    grown = plan_growth(View(axes), axes.editable, Demand("grow", 20), ZeroFanOut(), both).plans
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


def test_a_budget_counts_the_units_of_the_chosen_axes():
    model, x = build("mlp")
    axes = trace(model, x)
    (plan,) = plan_growth(View(axes), [axes["0"]], Demand("grow", 9, Budget(units=14)), ZeroFanOut(), Uniform()).plans
    assert plan.births == 4


def test_bytes_are_those_of_the_model():
    model, x = build("mlp", dtype=torch.float32)
    axes = trace(model, x)
    model[0].bfloat16()  # 2 bytes an entry, the others 4; the count of batches has 8
    held = 2 * 7 * 10 + 4 * (4 * 10 + 11 * 7 + 8 * 3) + 8
    assert sum(t.nbytes for t in [*model.parameters(), *model.buffers()]) == held
    assert axes.byte_count() == held
    assert Budget(bytes=held).met(axes, axes.sizes, axes.editable)
    assert not Budget(bytes=held - 1).met(axes, axes.sizes, axes.editable)


def sizes_after(axes, plans, sign):
    found = list(axes.sizes)
    for plan in plans:
        found[plan.axis.index] += sign * (plan.births if sign > 0 else len(plan.units))
    return found


def memory(axes):
    """Bytes for sizes, measured on tensors that have them."""
    tensors = {**dict(axes.model.named_parameters()), **dict(axes.model.named_buffers())}

    def measured(sizes=axes.sizes):
        shapes = {name: axes.layouts[name].shape(sizes) for name in tensors}
        return sum(torch.empty(shapes[name], dtype=t.dtype).nbytes for name, t in tensors.items())

    return measured


@pytest.mark.parametrize("measure", ["parameters", "flops", "units", "bytes"])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_budget_stops_growth_just_before_and_pruning_just_after(measure, multiple):
    model, x = build("convolutions")
    axes = trace(model, x)
    size = {
        "parameters": axes.parameter_count,
        "flops": axes.flops,
        "units": lambda sizes=axes.sizes: sum(sizes[axis.index] for axis in axes.editable),
        "bytes": memory(axes),
    }[measure]
    allocator = Uniform(Limits(multiple=multiple))

    bound = 3 * size()
    grown = plan_growth(
        View(axes), axes.editable, Demand("grow", 50, Budget(**{measure: bound})), ZeroFanOut(), allocator
    ).plans
    births = sum(plan.births for plan in grown)
    assert size(sizes_after(axes, grown, 1)) <= bound
    more = plan_growth(View(axes), axes.editable, Demand("grow", births + multiple), ZeroFanOut(), allocator).plans
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
    assert not plan_growth(View(axes), axes.editable, Demand("grow", 5, small), ZeroFanOut(), Uniform()).plans
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
    with pytest.raises(UnknownAxisError, match="the editable ones are"):
        choose(axes, ["0", "layer9"])
    with pytest.raises(UnknownAxisError, match="predicate"):
        choose(axes, lambda a: False)


def test_alike_keeps_axes_of_a_form_at_one_size():
    model = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6)) for _ in range(3))
    )
    axes = trace(model, torch.ones(1, 6))
    inner = [axis for axis in axes.editable if axis.size == 12]
    assert len(inner) == 3
    first = Custom(lambda offers, total: [total, 0, 0])
    view, demand = View(axes), Demand("prune", 9)
    assert [len(plan.units) for plan in plan_pruning(view, inner, demand, Magnitude(), first)] == [9]
    together = plan_pruning(view, inner, demand, Magnitude(), Alike(first))
    assert [len(plan.units) for plan in together] == [3, 3, 3]


def test_alike_takes_whole_multiples_of_a_form_and_the_nearest_total():
    model = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6)) for _ in range(2))
    )
    axes = trace(model, torch.ones(1, 6))
    inner = [axis for axis in axes.editable if axis.size == 12]
    offers = [Offer(axis, "prune", range(4, 9, 4), axes) for axis in inner]
    assert Alike().counts(8, offers) == (4, 4)
    assert Alike().counts(13, offers) == (8, 8)
    assert Alike().counts(3, offers) == (0, 0)
    assert Alike().counts(8, [offers[0], offers[1].up_to(3)]) == (0, 0)


class Comparing(nn.Module):
    """Its code goes another way where two widths are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        y = self.second(h)
        return self.last(y + h if y.shape == h.shape else y)


@pytest.mark.parametrize(("asked", "born"), [(3, 3), (4, 3), (5, 5)])
def test_growth_steps_aside_where_the_code_would_go_another_way(asked: int, born: int) -> None:
    """It was refused in the middle of training."""
    torch.manual_seed(0)
    model, x = Comparing(), torch.randn(4, 6)
    plasticity = meristem.Plasticity(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        x,
        grow=ZeroFanOut(),
        schedule=At(1, grow=asked),
        axes=["second"],
    )
    before = model(x)
    event = plasticity.step()
    assert event is not None
    assert event.births == {"second": born}
    assert torch.allclose(model(x), before, atol=1e-6)
    assert bool(event.notes) == (born < asked)


def test_pruning_steps_aside_where_the_code_would_go_another_way() -> None:
    model, x = Comparing(), torch.randn(4, 6)
    axes = trace(model, x)
    (plan,) = plan_pruning(View(axes), [axes["first"]], Demand("prune", {"first": 4}), Magnitude(), Uniform())
    assert len(plan.units) == 3
