"""How much, when, and for how long: amounts by a cubic, by measurement, and soft removal."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

import meristem
from meristem.allocate import Limits, Proportional, Uniform, plan_pruning
from meristem.axes import Role
from meristem.edit import Edit
from meristem.errors import ConfigError, EditError
from meristem.grow import ZeroFanOut
from meristem.prune import (
    Compensated,
    Cubic,
    Gone,
    Magnitude,
    Random,
    Removal,
    latency,
    latency_ratio,
    least_within,
    measured,
    most_within,
    silence,
)
from meristem.schedule import At, Below, Demand, Every, OnPlateau
from meristem.signals import View
from meristem.signals.direct import Recording
from tests.prune.table import cached, seen


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 1)).double()


@pytest.fixture
def x():
    return torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ cubic


def test_a_cubic_leaves_what_it_says():
    cubic, units, gone = Cubic(0.75, end=500, begin=100), 1.0, 0.0
    for step in (50, 130, 140, 260, 390, 490, 650):
        units *= 1 - cubic(step).beyond(gone)
        gone = cubic(step).total
        progress = min(max((step - 100) / 400, 0), 1)
        assert 1 - units == pytest.approx(gone) == pytest.approx(0.75 * (1 - (1 - progress) ** 3))
    assert cubic(100) == Gone(0.0)
    assert cubic(500) == cubic(700) == Gone(0.75)
    assert cubic(500).beyond(0.75) == cubic(200).beyond(0.75) == 0.0


def test_a_cubic_is_an_amount_of_a_schedule(net, x):
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    plasticity = meristem.Plasticity(
        net, optimizer, x, prune=Magnitude(), schedule=Every(5, prune=Cubic(0.5, end=30)), axes="0"
    )
    for _ in range(40):
        plasticity.step()
    assert plasticity.axes["0"].size == 15


def _two_layers(units: tuple[int, int]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, units[0]), nn.ReLU(), nn.Linear(units[0], units[1]), nn.ReLU(), nn.Linear(units[1], 3)
    ).double()


def _cubic(model, example, share: float, every: int, multiple: int = 1):
    return meristem.Plasticity(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        example,
        prune=Magnitude(),
        allocate=Proportional(limits=Limits(multiple=multiple)),
        schedule=Every(every, prune=Cubic(share, end=100)),
    )


@pytest.mark.parametrize("every", [1, 5, 7])
@pytest.mark.parametrize(
    ("units", "share", "multiple", "left"),
    [((37, 53), 0.9, 1, 9), ((37, 53), 0.5, 1, 45), ((37, 53), 0.3, 1, 63), ((64, 64), 0.5, 8, 64)],
)
def test_a_cubic_ends_where_it_says_however_small_its_amounts_are(x, every, units, share, multiple, left):
    """What rounding to whole units or to a multiple leaves is not lost."""
    plasticity = _cubic(_two_layers(units), x, share, every, multiple)
    for _ in range(110):
        plasticity.step()
    assert sum(axis.size for axis in plasticity.axes.editable) == left


@pytest.mark.parametrize("at", [3, 50, 77])
def test_what_rounding_leaves_is_saved(x, at):
    """The sizes after each step are the same in a run that was resumed."""

    def sizes(plasticity, steps):
        found = []
        for _ in range(steps):
            plasticity.step()
            found.append([axis.size for axis in plasticity.axes.editable])
        return found

    whole = sizes(_cubic(_two_layers((37, 53)), x, 0.9, 1), 100)
    first = _cubic(_two_layers((37, 53)), x, 0.9, 1)
    sizes(first, at)
    second = _cubic(_two_layers((37, 53)), x, 0.9, 1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert sizes(second, 100 - at) == whole[at:]


def test_what_limits_keep_back_is_not_owed(x):
    """After pruning at the limit for long, one more unit of room loses no more than the next share of it."""
    model = _two_layers((12, 12))
    plasticity = meristem.Plasticity(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        x,
        prune=Magnitude(),
        grow=ZeroFanOut(),
        allocate=Proportional(limits=Limits(minimum=10)),
        schedule=Every(1, end=50, prune=0.5) | At(60, grow=20) | At(61, prune=0.1),
    )
    for _ in range(60):
        plasticity.step()
    assert sum(axis.size for axis in plasticity.axes.editable) == 40
    plasticity.step()
    assert 35 <= sum(axis.size for axis in plasticity.axes.editable) <= 36


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (99, "prune: 29 of 99 units"),
        ({"0": 30}, "prune: 29 of 30 units"),
        (0.99, "prune: 29 of 30 units"),
        (Below(1e9), "prune: 29 of 30 units"),
        (3, None),
        (0.5, None),
        ({"0": 29}, None),
    ],
)
def test_a_controller_says_what_it_could_not_prune(net, x, amount, said):
    plasticity = meristem.Plasticity(
        net, torch.optim.SGD(net.parameters(), 0.0), x, prune=Magnitude(), schedule=At(1, prune=amount), axes="0"
    )
    event = plasticity.step()
    assert event is not None
    assert [note.split(",")[0] for note in event.notes] == ([said] if said else [])


TIMES = {
    "every step": Every(1, end=100, prune=Cubic(0.5, end=100)),
    "every 7": Every(7, end=105, prune=Cubic(0.5, end=100)),
    "no end": Every(30, prune=Cubic(0.5, end=100)),
    "begins late": Every(5, start=50, end=100, prune=Cubic(0.5, end=100)),
    "begins later than its schedule": Every(5, end=100, prune=Cubic(0.5, begin=33, end=100)),
    "after": Every(5, prune=Cubic(0.5, end=100)).after(steps=52),
    "at": At((10, 11, 50, 100), prune=Cubic(0.5, end=100)),
    "several": Every(30, prune=Cubic(0.5, end=100)) | Every(20, prune=Cubic(0.5, end=100)),
    "losses": OnPlateau(patience=1, window=3, prune=Cubic(0.5, end=100)),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_cubic_is_kept_to_whenever_its_schedule_asks(x, name):
    """After each time the units are those of the curve, to half a unit, without knowing when it asks next."""
    model, cubic = _two_layers((64, 64)), Cubic(0.5, end=100, begin=33 if "later" in name else 0)
    plasticity = meristem.Plasticity(
        model, torch.optim.SGD(model.parameters(), 0.0), x, prune=Magnitude(), schedule=TIMES[name]
    )
    for step in range(1, 131):
        if plasticity.step(1.0) is not None:
            assert abs(sum(axis.size for axis in plasticity.axes.editable) - 128 * (1 - cubic.gone(step))) <= 0.5
    assert sum(axis.size for axis in plasticity.axes.editable) == 64


def test_a_cubic_is_a_share_of_what_is_there_besides(x):
    """What another demand prunes in between is gone besides: 128 / 2 * 3 / 4."""
    model, cubic = _two_layers((64, 64)), Cubic(0.5, end=30)
    schedule = Every(10, prune=cubic) | At(15, prune=0.25)
    plasticity = meristem.Plasticity(
        model, torch.optim.SGD(model.parameters(), 0.0), x, prune=Magnitude(), schedule=schedule
    )
    for _ in range(40):
        plasticity.step()
    assert sum(axis.size for axis in plasticity.axes.editable) == 48


@pytest.mark.parametrize("wrong", [{"final": 1.0}, {"end": 0}, {"begin": -1}])
def test_settings_of_a_cubic(wrong):
    with pytest.raises(ConfigError, match="0 <= final < 1"):
        Cubic(**{"final": 0.5, "end": 10, **wrong})


@pytest.mark.parametrize("make", [lambda **a: Every(5, end=60, **a), lambda **a: Every(7, end=100, **a),
                                  lambda **a: At((10, 99), **a)])  # fmt: skip
def test_a_schedule_that_is_over_before_its_cubic_is_refused(make):
    """Less would go than was asked for, and nobody would say so."""
    with pytest.raises(ConfigError, match="not due at step 100 or later"):
        make(prune=Cubic(0.5, end=100))
    assert make(prune=Cubic(0.5, end=60)).next(0) in (5, 7, 10)


@pytest.mark.parametrize("wrong", [{"grow": Gone(0.5)}, {"replace": Gone(0.5)}, {"prune": Gone(1.0)}])
def test_what_is_to_be_gone_is_pruned(wrong):
    with pytest.raises(ConfigError, match="an amount to prune"):
        At(1, **wrong)


# ------------------------------------------------------------------ by measurement


def test_as_much_as_the_loss_allows_is_what_trying_all_amounts_finds(net, x):
    """The readers have one sign, so that the loss rises with every unit that goes."""
    with torch.no_grad():
        net[2].weight.abs_()
    axes = meristem.trace(net, x)
    target = net(x).detach()
    view, chosen = View(axes), [axes["0"]]

    def loss() -> float:
        return float((net(x) - target).square().mean())

    def plans(amount: int):
        return plan_pruning(view, chosen, Demand("prune", amount), Magnitude(), Uniform())

    every = [0.0, *(measured(axes, plans(n), loss) for n in range(1, 30))]
    assert every == sorted(every)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for bound in (every[1] / 2, every[4], (every[10] + every[11]) / 2, 1e9):
        found = most_within(axes, plans, 29, loss, bound)
        assert sum(len(plan.units) for plan in found) == sum(value <= bound for value in every) - 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_as_little_as_a_size_asks_for(net, x):
    axes = meristem.trace(net, x)

    def plans(amount: int):
        return (Removal(axes["0"], tuple(range(amount))),)

    def size() -> float:
        return sum(p.numel() for p in net.parameters())

    found = least_within(axes, plans, 29, size, 100)
    assert found is not None
    assert 6 * (30 - len(found[0].units)) + 1 <= 100 < 6 * (31 - len(found[0].units)) + 1
    assert least_within(axes, plans, 29, size, 1000) == ()
    assert least_within(axes, plans, 29, size, 6) is None


def test_what_is_tried_is_compensated():
    """The mean of the outputs stays, because the shifts are tried too."""
    case = cached("linear, relu").copied()
    criterion = Compensated(Random())
    plan = criterion.removal(seen(case, criterion), case.axis, [0, 2])

    def middle(model: nn.Module) -> torch.Tensor:
        return model[2](model[1](model[0](case.args[0]))).mean(0)

    expected = middle(case.model)
    assert measured(case.axes, [plan], lambda: float((middle(case.model) - expected).abs().max())) < 1e-12
    bare = Removal(plan.axis, plan.units)
    assert measured(case.axes, [bare], lambda: float((middle(case.model) - expected).abs().max())) > 1e-3


def test_latency_is_the_median_and_leaves_modes_alone(net, x, monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 11.0, 20.0, 25.0, 30.0, 32.0])  # passes of 9 (warm-up), 1, 5 and 2 seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    net.train()
    net[1].eval()
    modes: list[bool] = []
    net[0].register_forward_hook(lambda module, args, out: modes.append(module.training))
    assert latency(net, x, runs=3, warm_up=1) == 2.0
    assert modes == [False] * 4
    assert [module.training for module in net] == [True, False, True]
    with pytest.raises(ConfigError, match="runs"):
        latency(net, x, runs=0)


def test_a_ratio_of_latencies_is_the_median_over_passes_in_turn(net, x, monkeypatch):
    """A machine that becomes four times slower half-way: each alone would be off, the ratio is not."""
    times = [9.0, 9.0, 1.0, 2.0, 1.0, 2.0, 4.0, 8.0, 4.0, 8.0]  # of the model and the other, warm-up first
    clock = iter([t for time in times for t in (0.0, time)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    other = nn.Sequential(*net).train()
    assert latency_ratio(net, other, x, runs=4, warm_up=1) == 0.5
    assert other.training
    assert net.training
    with pytest.raises(ConfigError, match="runs"):
        latency_ratio(net, other, x, runs=0)


def test_latency_takes_arguments_by_name():
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> torch.Tensor:
            return a + b

    a = torch.ones(2)
    assert latency(Two(), a, {"b": a}, runs=1) >= 0
    assert latency(Two(), {"a": a, "b": a}, runs=1) >= 0


# ------------------------------------------------------------------ soft


@pytest.mark.parametrize("name", ["same, relu", "heads", "stream, tanh", "flattened zoo"])
def test_soft_removal_is_removal_for_the_time_being(name):
    case = cached(name)
    plan = Removal(case.axis, (0, 2))
    hard, soft = case.copied(), case.copied()
    Edit(hard.axes).prune(hard.axis, plan.units).commit()
    silence(soft.axes, [plan])
    torch.testing.assert_close(soft.outputs(False), hard.outputs(False))
    before = {n: p.detach().clone() for n, p in soft.model.named_parameters()}
    soft.loss().backward()
    optimizer = torch.optim.SGD(soft.model.parameters(), 1.0)
    optimizer.step()
    moved = {n: (p.detach() - before[n]) for n, p in soft.model.named_parameters()}
    reading = [p for p in soft.axes.places[soft.axis.index] if Role.READS in p.roles]
    for place in reading:
        units = meristem.axes.units_along(place.layout.dims[place.dim], soft.axis.index, soft.axes.sizes)
        assert moved[place.layout.name].movedim(place.dim, 0)[units == 0].abs().max() > 0


MADE_UP_FOR = ["linear, relu", "heads", "stream, relu", "two readers, relu", "depthwise", "batch norm"]


@pytest.mark.parametrize("name", MADE_UP_FOR)
def test_what_readers_lose_is_made_up_for_when_units_fall_silent(name):
    """Silent units and removed ones leave the same function, and carrying the plan out adds nothing once more."""
    case, criterion = cached(name), Compensated(Random())
    plan = criterion.removal(seen(case, criterion), case.axis, [0, 2])
    assert plan.start is not None
    hard, soft, bare = case.copied(), case.copied(), case.copied()
    Edit(hard.axes).gather(hard.axis, plan.gather, plan.start).commit()
    Edit(bare.axes).gather(bare.axis, plan.gather).commit()
    (left,) = silence(soft.axes, [plan])
    assert left == plan
    assert left.start is None
    before = soft.outputs(False)
    torch.testing.assert_close(before, hard.outputs(False))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(before, bare.outputs(False))
    Edit(soft.axes).gather(soft.axis, left.gather).commit()
    torch.testing.assert_close(soft.outputs(False), before)
    for name, tensor in hard.model.state_dict().items():
        torch.testing.assert_close(soft.model.state_dict()[name], tensor)


def test_a_batch_normalization_makes_up_for_silent_units():
    """Without a bias of the reader it is the running mean, a buffer, that moves."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(75, 2)
    ).double()
    x = torch.randn(5, 1, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight[[0, 3]] = 0
        net[0].bias[[0, 3]] = 0.7
    net(x)
    axes, criterion = meristem.trace(net.eval(), x), Compensated(Random())
    recording = Recording(axes, criterion.needs(axes, axes["0"]))
    net(x).sum().backward()
    plan = criterion.removal(View(axes, signals=recording.finish()), axes["0"], [0, 3])
    before = net(x)
    (left,) = silence(axes, [plan])
    assert net[2].weight[:, [0, 3]].abs().max() == 0
    torch.testing.assert_close(net(x), before)
    Edit(axes).gather(left.axis, left.gather).commit()
    torch.testing.assert_close(net(x), before)


def test_filters_cannot_fall_silent_with_what_readers_lose():
    case, criterion = cached("linear, relu").copied(), Compensated(Random())
    plan = criterion.removal(seen(case, criterion), case.axis, [0])
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    with pytest.raises(EditError, match="leave out role="):
        silence(case.axes, [plan], Role.PRODUCES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.model.state_dict().items())


def test_soft_removal_by_filters_and_refusals(net, x):
    axes = meristem.trace(net, x)
    silence(axes, [Removal(axes["0"], (3,))], Role.PRODUCES)
    assert net[0].weight[3].abs().max() == 0
    assert net[2].weight[:, 3].abs().max() > 0
    attention = cached("value size")
    query = attention.axes["query#2"]
    with pytest.raises(EditError, match="cannot be silenced"):
        silence(attention.axes, [Removal(query, (0,))])
