"""ReDo and ReGraMa: who counts as dormant, and what is reset."""

from __future__ import annotations

import pytest
import torch

from meristem.errors import ConfigError
from meristem.recipes import redo, regrama
from tests.recipes.runs import Run, convolutional, mlp, replaced


def activations(model, x):
    """What is read of each hidden axis."""
    return {"0": model[:2](x), "2": model[:4](x)}


def dormant(sizes: torch.Tensor, tau: float) -> list[int]:
    relative = sizes / sizes.mean()
    return (relative <= tau).nonzero().flatten().tolist()


@pytest.mark.parametrize("tau", [0.0, 0.4, 0.9])
def test_redo_replaces_what_is_dormant_by_hand(tau):
    run = Run(redo, every=7, tau=tau)
    run.model[0].bias.data[3] = -100
    run.steps(6)
    state = run.generator.get_state()
    x = run.batch()
    run.generator.set_state(state)
    with torch.no_grad():
        expected = {name: dormant(h.abs().mean(0), tau) for name, h in activations(run.model, x).items()}
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.steps(1)
    expected = {name: units for name, units in expected.items() if units}
    assert replaced(run.events[7]) == expected
    assert 3 in expected["0"]
    assert not run.model[2].weight[:, expected["0"]].any()
    assert run.model[0].weight[expected["0"]].abs().max() <= (1 / 3 * 3 / 6) ** 0.5
    assert run.model[0].bias[3] == 0
    assert (run.model[4].bias - before["4.bias"]).abs().max() < 2e-3  # an ordinary step, and nothing else
    moments = run.optimizer.state[run.model[0].weight]["exp_avg"]
    assert not moments[expected["0"]].any()
    assert moments[[unit for unit in range(12) if unit not in expected["0"]]].any()


def test_regrama_replaces_what_gradients_hardly_reach():
    tau = 0.6
    run = Run(regrama, every=4, tau=tau, optimizer=lambda p: torch.optim.SGD(p, lr=0.01))
    run.model[2].weight.data[:, 5] = 0
    run.model[2].weight.register_hook(lambda g: g.index_fill(1, torch.tensor([5]), 0))
    run.steps(3)
    state = run.generator.get_state()
    x = run.batch()
    run.generator.set_state(state)
    found = activations(run.model, x)
    first = found["0"].detach().requires_grad_()
    second = run.model[2:4](first)
    second.retain_grad()
    (run.model[4](second) - 0.5).square().mean().backward()
    expected = {"0": dormant(first.grad.abs().mean(0), tau), "2": dormant(second.grad.abs().mean(0), tau)}
    run.optimizer.zero_grad()
    run.steps(1)
    assert replaced(run.events[4]) == {name: units for name, units in expected.items() if units}
    assert 5 in expected["0"]


def test_a_dormant_channel_takes_its_flattened_columns_along():
    model = convolutional()
    run = Run(redo, model, every=2, tau=0.0, axes=["3"])
    model[3].bias.data[2] = -100
    run.steps(1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    statistics = {name: b.clone() for name, b in model.named_buffers()}
    run.optimizer.param_groups[0]["lr"] = 0.0
    run.steps(1)
    assert replaced(run.events[2]) == {"3": [2]}
    columns = torch.zeros(45, dtype=torch.bool)
    columns[18:27] = True
    assert not model[6].weight[:, columns].any()
    assert torch.equal(model[6].weight[:, ~columns], before["6.weight"][:, ~columns])
    assert not torch.isclose(model[3].weight[2], before["3.weight"][2]).all()
    kept = [0, 1, 3, 4]
    assert torch.equal(model[3].weight[kept], before["3.weight"][kept])
    assert torch.equal(model[6].bias, before["6.bias"])
    assert torch.equal(model[0].weight, before["0.weight"])
    assert statistics.keys() == dict(model.named_buffers()).keys()


def test_a_replaced_channel_gets_a_new_batch_normalization():
    model = convolutional()
    run = Run(redo, model, every=3, tau=0.0, axes=["0"])
    model[1].weight.data[1], model[1].bias.data[1] = 0.0, -1.0
    run.optimizer.param_groups[0]["lr"] = 0.0
    run.steps(3)
    assert replaced(run.events[3]) == {"0": [1]}
    values = [getattr(model[1], name)[1].item() for name in ("weight", "bias", "running_mean", "running_var")]
    assert values == [1, 0, 0, 1]


@pytest.mark.parametrize("recipe", [redo, regrama])
def test_nothing_happens_between_periods_or_without_dormant_units(recipe):
    run = Run(recipe, mlp(), every=5, tau=1e-9).steps(11)
    assert not run.events
    assert run.model._forward_hooks == {}


@pytest.mark.parametrize("recipe", [redo, regrama])
def test_a_threshold_that_no_score_can_reach_is_refused(recipe):
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    with pytest.raises(ConfigError, match=r"tau=.* at least 0; got -1"):
        recipe(model, torch.optim.SGD(model.parameters(), 0.1), torch.ones(1, 4), tau=-1)
