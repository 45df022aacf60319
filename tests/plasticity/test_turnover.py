"""Replacement: units die and newborns take their places, at a constant size."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from meristem.allocate import Ranked, Turnover, Uniform, plan_turnover
from meristem.axes import trace
from meristem.edit import Edit, Explicit, Gather, Newborns
from meristem.errors import ConfigError, EditError
from meristem.grow import (
    SWE,
    TINY,
    Fresh,
    Growth,
    Net2Wider,
    Paired,
    Random,
    VarianceTransfer,
    ZeroFanOut,
)
from meristem.plasticity import Plasticity
from meristem.prune import Criterion, Magnitude, Protect, Removal
from meristem.schedule import At, Below, Demand, Every, Rate
from meristem.signals import View
from tests.plasticity.models import MODELS, build


class Given(Criterion):
    """Scores by axis name; 1 where none are given."""

    def __init__(self, **scores: list[float]) -> None:
        self.given = {f"{name[1:]}": torch.tensor(found, dtype=torch.float64) for name, found in scores.items()}

    def scores(self, view: View, axis) -> Tensor:
        return self.given.get(axis.name, torch.ones(axis.size))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def run(plasticity: Plasticity, steps: int) -> list:
    events = []
    x = torch.randn(8, 3, dtype=torch.float64)
    for _ in range(steps):
        loss = plasticity.model(x).square().mean()
        loss.backward()
        for optimizer in plasticity.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        events.append(plasticity.step(loss))
    return events


def controller(model: nn.Module, schedule, criterion: Criterion, grow=None, **settings) -> Plasticity:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(2, 3, dtype=torch.float64)
    return Plasticity(model, optimizer, x, schedule=schedule, grow=grow or ZeroFanOut(), prune=criterion, **settings)


def dead(event) -> dict[str, list[int]]:
    """By axis name the places in which units were born."""
    found = {}
    for record in event.edits:
        for axis in record["axes"]:
            sources = [
                unit for first, n in axis["units"] for unit in ([-1] * n if first < 0 else range(first, first + n))
            ]
            found[axis["axis"]] = [place for place, source in enumerate(sources) if source < 0]
    return found


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (3, {"0": [1], "2": [0, 4]}),
        (0.34, {"0": [1], "2": [0, 4]}),
        ({"2": 2}, {"2": [0, 4]}),
        (Below(0.2), {"0": [1], "2": [4]}),
        (Below(0.19), {"0": [1]}),
        (lambda step: Below(0.2), {"0": [1], "2": [4]}),
    ],
)
def test_the_lowest_are_replaced_in_their_places(amount, expected):
    criterion = Given(_0=[3, 0.1, 2, 1], _2=[0.3, 1, 2, 3, 0.2])
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    objects = dict(model.named_parameters())
    (event,) = run(controller(model, At(1, replace=amount), criterion), 1)
    assert dead(event) == expected
    assert event.births == event.deaths == {name: len(units) for name, units in expected.items()}
    assert event.parameters[0] == event.parameters[1]
    assert not event.stale
    for name, parameter in model.named_parameters():
        assert parameter is objects[name]
    for name, weight, reader in (("0", "0.weight", "2.weight"), ("2", "2.weight", "4.weight")):
        units = expected.get(name, [])
        rows, columns = (dict(model.named_parameters())[n].detach() for n in (weight, reader))
        kept = [unit for unit in range(len(rows)) if unit not in units]
        cut = [unit for unit in range(rows.shape[1]) if not (weight == "2.weight" and unit in expected.get("0", []))]
        assert torch.equal(rows[kept][:, cut], before[weight][kept][:, cut])
        assert not torch.isclose(rows[units], before[weight][units]).any(1).all() or not units
        assert not columns[:, units].any()


def test_the_function_is_that_of_the_model_without_the_dead():
    model = net()
    axes = trace(model, torch.randn(2, 3, dtype=torch.float64))
    x = torch.randn(6, 3, dtype=torch.float64)
    model[4].weight.data[:, [1, 3]] = 0
    silenced = model(x)
    run(controller(model, At(1, replace={"2": 2}), Given(_2=[1, 0, 1, 0, 1])), 1)
    assert torch.allclose(model(x), silenced, rtol=0, atol=1e-14)
    assert axes.parameter_count() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("method", [ZeroFanOut(), Fresh(), Random(), Paired()], ids=lambda m: type(m).__name__)
def test_newborns_in_place_are_what_they_are_behind_the_others(name, method):
    """A turnover is growth, removal of the dead, and a permutation."""
    found = {}
    for kind in ("turnover", "steps"):
        model, x = build(name)
        axes = trace(model, x)
        chosen = [axis for axis in axes.editable if method.undefined(axes, axis) is None]
        for axis in chosen[:1]:
            view = View(axes, generator=torch.Generator().manual_seed(1))
            units = [0, axis.size - 1]
            growth = method.propose(view, axis, 2)
            if kind == "turnover":
                plan = Turnover(growth, Removal(axis, tuple(units)), dict(enumerate(axes.sizes)))
                Edit(axes, seed=1).gather(axis, plan.gather, plan.start).commit()
            else:
                grown = Edit(axes, seed=1).gather(axis, growth.gather, growth.start).commit().axes
                order = list(range(axis.size))
                order[0], order[-1] = axis.size, axis.size + 1
                gather = Gather(tuple(order), (False,) * axis.size)
                Edit(grown).gather(axis.name, gather).commit()
        found[kind] = {n: p.detach() for n, p in [*model.named_parameters(), *model.named_buffers()]}
    drawn = isinstance(method, (ZeroFanOut, Fresh))  # these draw while they are put in place, in another order
    for tensor, expected in zip(found["turnover"].values(), found["steps"].values(), strict=True):
        assert tensor.shape == expected.shape
        assert torch.equal(tensor == 0, expected == 0)
        assert drawn or torch.equal(tensor, expected)


def test_moves_of_growth_and_of_removal_are_both_made_where_units_are():
    model = net()
    axes = trace(model, torch.randn(2, 3, dtype=torch.float64))
    axis = axes["0"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    grown, shrunk = torch.arange(30.0).reshape(5, 6), torch.arange(10.0).reshape(5, 2) * 100
    growth = Growth(axis, Gather.grow(4, 2), Explicit("g", {}, moves={"2.weight": grown, "2.bias": torch.ones(5)}))
    removal = Removal(axis, (0, 2), Explicit("r", {}, moves={"2.weight": shrunk, "2.bias": torch.full((5,), 2.0)}))
    plan = Turnover(growth, removal, dict(enumerate(axes.sizes)))
    Edit(axes).gather(axis, plan.gather, plan.start).commit()
    after = {name: p.detach() for name, p in model.named_parameters()}
    assert torch.equal(after["2.bias"], before["2.bias"] + 3)
    assert torch.equal(after["2.weight"][:, 1], before["2.weight"][:, 1] + grown[:, 1] + shrunk[:, 0])
    assert torch.equal(after["2.weight"][:, 3], before["2.weight"][:, 3] + grown[:, 3] + shrunk[:, 1])
    assert not after["2.weight"][:, [0, 2]].any()


@pytest.mark.parametrize("action", ["prune", "replace"])
def test_what_a_criterion_does_to_those_that_stay_is_done(action):
    class Moving(Given):
        def removal(self, view, axis, units):
            return Removal(axis, tuple(units), Explicit("moving", {}, moves={"4.bias": torch.tensor([5.0, 7.0])}))

    model = net()
    bias = model[4].bias.detach().clone()
    run(controller(model, At(1, **{action: {"2": 1}}), Moving()), 1)
    assert torch.equal(model[4].bias.detach(), bias + torch.tensor([5.0, 7.0], dtype=torch.float64))


def test_an_edit_refuses_to_forget_a_move():
    axes = trace(net(), torch.randn(2, 3, dtype=torch.float64))
    move: Newborns = Explicit("moving", {}, moves={"2.bias": torch.ones(5)})
    edit = Edit(axes).gather("0", Gather.prune(4, [1]), move)
    with pytest.raises(EditError, match="commit the first"):
        edit.grow("0", 2)


@pytest.mark.parametrize("method", [Net2Wider(), VarianceTransfer()], ids=lambda m: type(m).__name__)
def test_methods_that_copy_or_rescale_are_refused_with_those_that_can(method):
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    plasticity = controller(model, At(1, replace=2), Magnitude(), method)
    with pytest.raises(EditError, match=r"cannot take the places .* such as Fresh, ZeroFanOut, Random"):
        run(plasticity, 1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_method_for_one_axis_at_a_time_is_refused_at_once():
    with pytest.raises(ConfigError, match="one axis at a time"):
        controller(net(), At(1, replace=2), Magnitude(), SWE())


@pytest.mark.parametrize("missing", ["grow", "prune"])
def test_replacement_needs_both_halves(missing):
    model = net()
    settings = {"grow": ZeroFanOut(), "prune": Magnitude(), missing: None}
    with pytest.raises(ConfigError, match=f"asks to replace, but Plasticity.*{missing}="):
        Plasticity(
            model,
            torch.optim.SGD(model.parameters()),
            torch.randn(2, 3).double(),
            schedule=At(1, replace=1),
            **settings,
        )


def test_methods_with_statistics_replace_too():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plasticity = Plasticity(
        model,
        optimizer,
        torch.randn(2, 3, dtype=torch.float64),
        grow=TINY(),
        prune=Magnitude(),
        schedule=At(3, replace={"2": 1}),
    )
    events = run(plasticity, 3)
    assert events[2].births == {"2": 1}
    assert model[4].weight[:, dead(events[2])["2"]].abs().min() > 0


def test_a_method_that_falls_short_kills_no_more_than_it_bears():
    class Short(ZeroFanOut):
        def propose(self, view, axis, count):
            return Growth(axis, Gather.grow(axis.size, 1), self, note="only one")

    (event,) = run(controller(net(), At(1, replace={"2": 3}), Given(_2=[5, 4, 1, 2, 3]), Short()), 1)
    assert dead(event) == {"2": [2]}
    assert event.notes == ("only one",)


def test_protected_units_stay_and_newborns_are_counted_as_such():
    model = net()
    plasticity = controller(model, Every(1, replace={"2": 2}), Protect(Given(_2=[0, 1, 2, 3, 4]), age=2))
    events = run(plasticity, 4)
    assert [dead(event) if event else None for event in events] == [
        {"2": [0, 1]},
        {"2": [2, 3]},
        {"2": [0, 1]},
        {"2": [2, 3]},
    ]
    assert plasticity.ages["2"].tolist() == [1, 1, 0, 0, torch.iinfo(torch.int64).max]


def test_allocators_divide_replacement():
    scores = {"_0": [0.4, 0.5, 0.6, 0.7], "_2": [0.1, 0.2, 0.3, 9, 9]}
    (uniform,) = run(controller(net(), At(1, replace=2), Given(**scores), allocate=Uniform()), 1)
    assert dead(uniform) == {"0": [0], "2": [0]}
    comparable = type("Comparable", (Given,), {"comparable": True})
    (ranked,) = run(controller(net(), At(1, replace=4), comparable(**scores), allocate=Ranked()), 1)
    assert dead(ranked) == {"0": [0], "2": [0, 1, 2]}


def test_a_rate_adds_up_over_steps_axis_by_axis_and_resumes():
    def made():
        model = net()
        criterion = Protect(Given(_0=[0, 1, 2, 3], _2=[0, 1, 2, 3, 4]), age=3)
        return controller(model, Every(1, replace=Rate(0.07)), criterion)

    whole = made()
    events = run(whole, 40)
    owed, births = {"0": 0.0, "2": 0.0}, {"0": [-9] * 4, "2": [-9] * 5}
    for step, event in enumerate(events, start=1):
        expected = {}
        for name, born in births.items():
            mature = [unit for unit, birth in enumerate(born) if step - birth >= 3]
            owed[name] += 0.07 * len(mature)
            count = int(owed[name])
            owed[name] -= count
            if count:
                expected[name] = mature[:count]
                for unit in mature[:count]:
                    born[unit] = step
        assert (dead(event) if event else {}) == expected
    assert sum(sum(event.births.values()) for event in events if event) == pytest.approx(0.07 * 9 * 40, rel=0.2)

    first = made()
    run(first, 17)
    state = json.loads(json.dumps(first.state_dict()))
    assert any(0 < part < 1 for part in state["owed"].values())
    second = made()
    second.load_state_dict(state)
    assert [dead(e) if e else None for e in run(second, 23)] == [dead(e) if e else None for e in events[17:]]
    assert second.state_dict()["owed"] == whole.state_dict()["owed"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"grow": Below(1.0)}, "Below"),
        ({"prune": Rate(0.1)}, "Rate"),
        ({"replace": Rate(0.0)}, "Rate"),
        ({"replace": Rate(1.5)}, "Rate"),
        ({"replace": 1.5}, "at most 1.0"),
        ({"replace": -1}, "replace="),
        ({"prune": Below(float("nan"))}, "Below"),
        ({}, "replace="),
    ],
)
def test_senseless_amounts_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        At(1, **settings)


def test_pruning_below_a_threshold_keeps_limits():
    (event,) = run(controller(net(), At(1, prune=Below(1.0)), Given(_0=[0, 0, 2, 1], _2=[0, 0, 0, 0, 0])), 1)
    assert event.deaths == {"0": 3, "2": 4}


@pytest.mark.parametrize("amount", [Below(0.5), Below(1.0), Rate(0.5), {"0": 1}, 2, 0.5])
def test_what_waits_for_statistics_is_saved_as_it_is(amount):
    from meristem.plasticity.pending import Pending
    from meristem.plasticity.state import State

    pending = Pending(7, (Demand("replace", amount),))
    state = State(
        step=3, seed=0, axes=("0",), history=(), births={}, schedule={}, pending=pending, owed={"0": 0.1 + 0.2}
    )
    saved = State.parse(json.loads(json.dumps(state.plain())), {})
    assert saved.pending == pending
    assert saved.owed == state.owed


def test_plans_say_what_is_owed():
    axes = trace(net(), torch.randn(2, 3, dtype=torch.float64))
    demand = Demand("replace", Rate(0.3))
    plans, owed = plan_turnover(View(axes), axes.editable, demand, ZeroFanOut(), Given(), Uniform(), {"0": 0.5, "x": 1})
    assert {plan.axis.name: plan.births for plan in plans} == {"0": 1, "2": 1}
    assert owed == pytest.approx({"0": 0.7, "2": 0.5, "x": 1})
