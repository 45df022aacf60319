"""Random growth: the sizes of what is drawn, and newborns that ReLU would leave dead."""

import copy

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import Random
from meristem.signals import View


def grown(model, x, method, axis="0", count=4):
    axes = trace(model, x)
    plan = method.propose(View(axes), axes[axis], count)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    return plan


def convolutions():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 3)
    return nn.Sequential(*layers).double(), torch.randn(6, 2, 4, 4, dtype=torch.float64)


def test_slices_have_their_share_of_the_mean_norm():
    model, x = convolutions()
    old = copy.deepcopy(model)
    grown(model, x, Random(fan_in=0.5, fan_out=2.0))
    into = old[0].weight.flatten(1).norm(dim=1).mean()
    out = old[3].weight.unflatten(1, (5, 4)).transpose(0, 1).flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(model[0].weight[5:].flatten(1).norm(dim=1), (0.5 * into).expand(4))
    columns = model[3].weight.unflatten(1, (9, 4))[:, 5:].transpose(0, 1).flatten(1)
    torch.testing.assert_close(columns.norm(dim=1), (2 * out).expand(4))
    assert torch.equal(model[0].weight[:5], old[0].weight)
    assert not model[0].bias[5:].any()


def test_a_layer_of_zeros_gets_newborns_of_kaimings_size():
    model, x = convolutions()
    nn.init.zeros_(model[0].weight)
    grown(model, x, Random(), count=100)
    assert float(model[0].weight[5:].detach().std()) == pytest.approx((2 / 18) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("fan_out", "bias"), [(1.0, 1e-6), (0.0, 1.0)])
def test_newborns_that_read_nothing_learn_behind_relu(fan_out, bias):
    """The derivative of torch.relu at 0 is 0: without a bias their pre-activation would stay 0."""
    model, x = convolutions()
    before = model(x).detach()
    plan = grown(model, x, Random(fan_in=0.0, fan_out=fan_out))
    assert not model[0].weight[5:].any()
    assert torch.equal(model[0].bias[5:].detach(), torch.full((4,), bias, dtype=torch.float64))
    drift = (model(x) - before).abs().max()
    assert drift < 1e-4
    assert bool(plan.inexact) is bool(fan_out) is bool(drift > 1e-12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert bool(model[0].weight[5:].flatten(1).any(1).all())


def test_without_a_bias_newborns_cannot_read_nothing():
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    axes = trace(model, torch.randn(3, 4))
    assert "need a bias" in (Random(fan_in=0.0).undefined(axes, axes["0"]) or "")
    assert Random().undefined(axes, axes["0"]) is None


def test_a_unit_that_meets_others_of_its_axis_in_one_index_is_refused():
    class Pairwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(16, 3)

        def forward(self, x):
            x = self.first(x)
            return self.second((x[:, :, None] * x[:, None, :]).flatten(1))

    model = Pairwise()
    axes = trace(model, torch.randn(2, 5))
    assert "two of its units" in (Random().undefined(axes, axes["first"]) or "")


def test_shares_must_not_be_negative():
    with pytest.raises(ConfigError, match="at least 0"):
        Random(fan_in=-1.0)
