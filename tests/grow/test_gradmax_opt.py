"""GradMaxOpt: it climbs, it stays below the closed form where there is one, and it sees what the closed form cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError
from meristem.grow import GradMaxOpt, Random
from tests.grow.closures import convolution, mlp, task


def closed_form(t, count):
    """`c^2 (s_1^2 + ...)` of GradMax for axis "0" of the multilayer perceptron, without biases, and with them."""
    first, second = t.model[0], t.model[-3]
    z = second(t.model[1](first(t.x)))
    delta = torch.autograd.grad((t.model[4](t.model[3](z)) - t.y).square().mean(), z)[0]
    c = 0.5 * second.weight.norm(dim=0).mean()
    with_bias = torch.cat([t.x, torch.ones_like(t.x[:, :1])], 1)
    return [c.square() * torch.linalg.svdvals(delta.T @ u)[:count].square().sum() for u in (t.x, with_bias)]


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.LeakyReLU])
def test_it_nearly_reaches_the_closed_form_and_never_passes_it(activation):
    t = task(mlp(activation), (30, 4))
    method = GradMaxOpt(Random(fan_in=0, fan_out=0.5), steps=300, learning_rate=0.1)
    plan = method.propose(t.view, t.axes["0"], 2)
    bound, _ = closed_form(t, 2)
    assert 0.97 * bound < sum(plan.gains) < bound * (1 + 1e-6)


def test_it_is_better_than_its_start_and_than_random_draws():
    for make, shape in ((mlp(nn.ReLU), (30, 4)), (mlp(nn.GELU, norm=True), (30, 4)), (convolution, (6, 2, 4, 4))):
        t = task(make, shape)
        tried = [sum(GradMaxOpt(steps=n).propose(t.view, t.axes["0"], 2).gains) for n in (0, 60)]
        assert tried[1] > 1.2 * tried[0]


def test_what_is_predicted_is_the_gradient_and_the_function_stays():
    t = task(mlp(nn.ReLU, norm=True), (30, 4))
    plan = GradMaxOpt(steps=20).propose(t.view, t.axes["0"], 3)
    after = t.grown(plan)
    torch.testing.assert_close(after.model(t.x), t.model(t.x), rtol=1e-12, atol=1e-12)
    after.loss().backward()
    gradient = after.model.get_parameter("3.weight").grad[:, 6:].square().sum(0)
    torch.testing.assert_close(gradient, torch.tensor(plan.gains, dtype=torch.float64))
    rows = after.model.get_parameter("0.weight")[6:].detach()
    cosines = nn.functional.normalize(rows) @ nn.functional.normalize(rows).T
    torch.testing.assert_close(cosines, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_more_newborns_than_entries_are_given_all_the_same():
    t = task(mlp(), (30, 4))
    plan = GradMaxOpt(steps=3).propose(t.view, t.axes["0"], 7)
    assert plan.births == 7
    torch.testing.assert_close(
        GradMaxOpt(steps=3).gains(t.view, t.axes["0"], 7), torch.tensor(plan.gains, dtype=torch.float64)
    )


def test_newborns_without_a_gradient_are_left_out():
    """Behind ReLU a newborn may be off on the whole batch."""
    t = task(mlp(nn.ReLU), (1, 4))
    plan = GradMaxOpt(steps=0).propose(t.view, t.axes["0"], 12)
    assert 0 < plan.births < 12
    assert min(plan.gains) > 0
    assert plan.note == f"0: {plan.births} of 12; the others would get no gradient from these data"


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="steps"):
        GradMaxOpt(steps=-1)
    with pytest.raises(ConfigError, match="learning_rate"):
        GradMaxOpt(learning_rate=0)
