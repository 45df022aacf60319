"""Continual Backprop: how many, who, when, and what becomes of the function and of the optimizer's state."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError, UnknownAxisError
from meristem.recipes import continual_backprop
from tests.recipes.runs import Run, convolutional, mlp, replaced


def test_about_rate_times_units_times_steps_are_replaced():
    run = Run(continual_backprop, rate=5e-3, maturity=20).steps(300)
    born = {"0": [0] * 12, "2": [0] * 9}
    owed = {"0": 0.0, "2": 0.0}
    total = 0
    for step in range(1, 301):
        found = replaced(run.events[step]) if step in run.events else {}
        for name, births in born.items():
            owed[name] += 5e-3 * sum(step - birth > 20 for birth in births)
            count = len(found.get(name, []))
            assert count == int(owed[name])
            owed[name] -= count
            assert all(step - births[unit] > 20 for unit in found.get(name, []))
            for unit in found.get(name, []):
                births[unit] = step
            total += count
    assert total == pytest.approx(5e-3 * 21 * 280, rel=0.15)
    assert min(run.events) > 20


def test_one_step_of_several_replaces_at_the_same_rate():
    counts = {}
    for every in (1, 8):
        run = Run(continual_backprop, rate=5e-3, maturity=20, every=every).steps(250)
        counts[every] = sum(sum(event.births.values()) for event in run.events.values())
        assert all(step % every == 0 for step in run.events)
    assert counts[8] == pytest.approx(counts[1], rel=0.15)


def test_the_least_useful_of_the_mature_die():
    run = Run(continual_backprop, rate=0.05, maturity=3, decay=0.9)
    u = {"0": torch.zeros(12).double(), "2": torch.zeros(9).double()}
    n = {name: torch.zeros(len(found)) for name, found in u.items()}
    ages = {name: torch.zeros(len(found)) for name, found in u.items()}
    checked = 0
    for step in range(1, 60):
        state = run.generator.get_state()
        x = run.batch()
        run.generator.set_state(state)
        with torch.no_grad():
            h = {"0": run.model[:2](x), "2": run.model[:4](x)}
        weights = held(run)
        run.steps(1)
        for name, reader in (("0", 0), ("2", 1)):
            u[name] = 0.9 * u[name] + 0.1 * h[name].abs().mean(0) * weights[reader].abs().sum(0)
            n[name] += 1
            ages[name] += 1
        for name, units in (replaced(run.events[step]) if step in run.events else {}).items():
            score = torch.where(ages[name] > 3, u[name] / (1 - 0.9 ** n[name]), torch.inf)
            assert sorted(units) == sorted(score.argsort()[: len(units)].tolist())
            u[name][units], n[name][units], ages[name][units] = 0.0, 0.0, 0.0
            checked += len(units)
    assert checked > 20


def held(run: Run) -> list[torch.Tensor]:
    """The weights as they will be right after the optimizer's next step."""
    found: list[torch.Tensor] = []
    original = run.optimizer.step

    def step(*args, **kwargs):
        result = original(*args, **kwargs)
        found.extend(run.model[layer].weight.detach().clone() for layer in (2, 4))
        run.optimizer.step = original
        return result

    run.optimizer.step = step
    return found


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("keep_mean", [True, False])
def test_the_mean_of_the_output_stays_if_it_is_kept_and_only_then(make, keep_mean):
    """With frozen weights and one batch, the running mean is the batch's: outputs change, their mean does not."""
    model = make().eval()
    shape = (6,) if make is mlp else (1, 6, 6)
    x = torch.randn(20, *shape, dtype=torch.float64)
    last = "2" if make is mlp else "3"
    run = Run(
        continual_backprop,
        model,
        lambda p: torch.optim.SGD(p, lr=0.0),
        x,
        rate=0.02,
        maturity=5,
        keep_mean=keep_mean,
        axes=[last],
    )
    before = model(x).detach()
    while not run.events and run.plasticity.steps < 60:
        run.steps(1)
    (event,) = run.events.values()
    assert event.deaths == {last: 1}
    after = model(x).detach()
    lost = (after.mean(0) - before.mean(0)).abs().max()
    assert (after - before).abs().max() > 1e-4
    assert (lost < 1e-12) == keep_mean


def test_newborns_are_fresh_and_nothing_reads_them():
    run = Run(continual_backprop, rate=0.05, maturity=2)
    for parameter in run.model.parameters():
        parameter.data.mul_(30)
    objects = {name: id(p) for name, p in run.model.named_parameters()}
    while not run.events:
        run.steps(1)
    (units,) = [replaced(event)["0"] for event in run.events.values()]
    assert run.model[0].weight[units].abs().max() <= 2**0.5 * (3 / 6) ** 0.5
    assert run.model[0].weight[units].abs().min() > 0
    assert not run.model[0].bias[units].any()
    assert not run.model[2].weight[:, units].any()
    assert objects == {name: id(p) for name, p in run.model.named_parameters()}


def test_adams_state_of_replaced_units_begins_anew_with_a_step_count_of_their_own():
    run = Run(continual_backprop, rate=0.05, maturity=30, axes=["2"]).steps(1)
    while not run.events:
        run.steps(1)
    units = replaced(next(iter(run.events.values())))["2"]
    others = [unit for unit in range(9) if unit not in units]
    for layer, index in ((2, (units,)), (4, (slice(None), units))):
        state = run.optimizer.state[run.model[layer].weight]
        assert not state["exp_avg"][index].any()
        assert not state["exp_avg_sq"][index].any()
    assert run.optimizer.state[run.model[4].weight]["exp_avg"][:, others].abs().min() > 0
    weight = run.model[4].weight.detach().clone()
    run.steps(1)
    moved = (run.model[4].weight.detach() - weight)[:, units].abs()
    moving = moved[moved > 0]
    assert len(moving) >= 3
    assert moving.max() <= 1e-3 * 1.0001  # without step counts of their own: 3.16 learning rates
    assert moving.median() > 0.9e-3


def test_the_output_layer_is_never_touched():
    run = Run(continual_backprop, rate=0.1, maturity=1).steps(40)
    assert {name for event in run.events.values() for name in event.deaths} == {"0", "2"}
    assert [axis.name for axis in run.plasticity.axes.editable] == ["0", "2"]


def test_couplings_are_left_alone_by_default():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.norm(self.stem(x)))

    model = Normed().double()
    with pytest.raises(UnknownAxisError, match="chose none"):
        continual_backprop(model, torch.optim.SGD(model.parameters()), torch.randn(2, 6).double())


def test_a_negative_maturity_is_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ConfigError, match="maturity"):
        continual_backprop(model, torch.optim.SGD(model.parameters()), torch.randn(2, 6), maturity=-1)


@pytest.mark.parametrize("make", [mlp, convolutional])
def test_a_run_resumes_bit_for_bit(make):
    whole, first, second = (Run(continual_backprop, make(), rate=0.02, maturity=5) for _ in range(3))
    whole.steps(40)
    first.steps(23)
    second.plasticity.load_state_dict(json.loads(json.dumps(first.plasticity.state_dict())))
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.steps(17)
    assert {step: str(e) for step, e in whole.events.items() if step > 23} == {
        step: str(e) for step, e in second.events.items()
    }
    assert len(second.events) > 2
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert json.dumps(whole.plasticity.state_dict()) == json.dumps(second.plasticity.state_dict())
