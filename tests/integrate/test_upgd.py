"""UPGD: its rule by hand, both corrections, and that its state follows edits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.integrate import UPGD

from .runs import Run


def two(values: list[float], gradients: list[float], **settings: float) -> tuple[UPGD, list[nn.Parameter]]:
    """An optimizer of two parameters with one entry each, in two groups."""
    parameters = [nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in values]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
    return UPGD([{"params": [p]} for p in parameters], **{"lr": 0.1, "sigma": 0.0, **settings}), parameters


def sigmoid(x: float) -> float:
    return torch.sigmoid(torch.tensor(x, dtype=torch.float64)).item()


def test_the_rule_by_hand():
    optimizer, (a, b) = two([2.0, 1.0], [-0.5, -0.2], beta=0.9, weight_decay=0.3)
    w, u = [2.0, 1.0], [0.0, 0.0]
    g = [-0.5, -0.2]
    for t in range(1, 5):
        optimizer.step()
        u = [0.9 * x + 0.1 * (-y * z) for x, y, z in zip(u, g, w, strict=True)]
        corrected = [x / (1 - 0.9**t) for x in u]
        w = [
            (1 - 0.1 * 0.3) * x - 0.1 * y * (1 - sigmoid(z / max(corrected)))
            for x, y, z in zip(w, g, corrected, strict=True)
        ]
        assert [a.item(), b.item()] == pytest.approx(w, rel=1e-6)


def test_the_maximum_is_corrected_like_the_rest():
    """With the published code's uncorrected maximum the most useful weight would be frozen at the first step: the ratio
    would be 1 / (1 - beta) = 1000, and the factor 1 - sigmoid(1000) = 0."""
    optimizer, (a, _) = two([2.0, 1.0], [-0.5, -0.2])
    optimizer.step()
    assert (a.item() - 2) / 0.05 == pytest.approx(1 - sigmoid(1.0), rel=1e-6)
    assert (a.item() - 2) / 0.05 > 0.26


def test_no_useful_weight_at_all_does_not_turn_the_order_around():
    """With a largest utility below 0, u / max u would be large for the most harmful weight."""
    optimizer, (a, b) = two([2.0, 1.0], [0.5, 0.2])
    optimizer.step()
    assert (2 - a.item()) / 0.05 == pytest.approx(0.5)
    assert (1 - b.item()) / 0.02 == pytest.approx(0.5)


def test_the_smallest_useful_weight_divides_without_overflow():
    """1 / 1e-39 is infinite in float32, and infinity times 0 no number."""
    parameter = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))
    parameter.grad = torch.tensor([-1e-39, 0.0, 1.0])
    UPGD([parameter], lr=0.1, sigma=0.0).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([1.0, 1.0, -0.05]))


def test_factors_stay_in_their_range():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(50, 40, dtype=torch.float64))
    optimizer = UPGD([weight], lr=0.1, sigma=0.0)
    for _ in range(20):
        weight.grad = torch.randn_like(weight)
        before = weight.detach().clone()
        optimizer.step()
        factor = (before - weight.detach()) / (0.1 * weight.grad)
        assert 1 - sigmoid(1.0) - 1e-6 <= factor.min()
        assert factor.max() < 1


def test_noise_goes_into_the_step():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(300, 300))
    weight.grad = torch.zeros_like(weight)
    UPGD([weight], lr=1.0, sigma=0.01).step()
    assert weight.std().item() == pytest.approx(0.005, rel=0.02)


def test_state_follows_edits_and_checkpoints():
    run = Run(lambda p: UPGD(p, lr=0.1, sigma=0.0), None)
    run.random(3)
    before = run.optimizer.state[run.model[0].weight]["utility"].clone()
    run.edit(lambda edit: edit.prune("0", [1]).grow("0", 2))
    utility = run.optimizer.state[run.model[0].weight]["utility"]
    assert torch.equal(utility[:4], before[[0, 2, 3, 4]])
    assert not utility[4:].any()
    other = run.resumed(lambda p: UPGD(p, lr=0.1, sigma=0.0), None)
    for one in (run, other):
        one.random(3, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(run.values, other.values, strict=True))


def test_pruning_newborns_restores_every_bit():
    run = Run(lambda p: UPGD(p, lr=0.1), None)
    run.random(2)
    before = copy.deepcopy(run.optimizer.state_dict())["state"]
    run.grow(2)
    Edit(run.axes, run.optimizer).prune("0", [5, 6]).commit()
    after = run.optimizer.state_dict()["state"]
    assert all(torch.equal(after[k]["utility"], before[k]["utility"]) for k in before)


def test_a_closure_is_run_and_its_loss_returned():
    weight = nn.Parameter(torch.ones(1))
    optimizer = UPGD([weight, nn.Parameter(torch.ones(1))])

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1
    assert weight.item() < 1
    assert UPGD([nn.Parameter(torch.ones(1))]).step() is None


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="beta from 0 to below 1"):
        UPGD([nn.Parameter(torch.ones(1))], beta=1.0)
