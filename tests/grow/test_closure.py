"""What holds for every growth method that evaluates the loss itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError, SignalError
from meristem.grow import METHODS
from meristem.signals import View
from tests.edit.models import subject
from tests.edit.snapshot import Snapshot
from tests.grow.closures import convolution, mlp, task

CLOSED = [method for method in METHODS if method.requires_closure]
every_method = pytest.mark.parametrize("method", CLOSED, ids=lambda method: type(method).__name__)


class Failure(Exception):
    pass


def test_the_methods_are_those():
    names = {type(method).__name__ for method in CLOSED}
    assert names >= {"Candidates", "FastSplitting", "Firefly", "GradMaxOpt", "SWE", "Splitting"}


@every_method
@pytest.mark.parametrize("fails", [None, 1, 2])
@pytest.mark.parametrize("name", ["mlp", "conv_flatten_linear", "swiglu", "lstm_2_bidirectional", "unet"])
def test_everything_is_taken_back_bit_for_bit(method, name, fails):
    found = subject(name)
    found.model.train()
    found.backward()
    optimizer = torch.optim.Adam(found.model.parameters())
    optimizer.step()
    axis = found.axes.editable[-1]
    before, random = Snapshot([found.model], [optimizer]), torch.get_rng_state()
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        torch.rand(1)
        loss = found.loss()
        if calls == fails:
            raise Failure
        return loss

    try:
        method.propose(View(found.axes, closure=closure), axis, 2)
    except Failure:
        assert calls == fails
    else:
        assert fails is None or calls < fails
    before.check()
    assert torch.get_rng_state().equal(random)


@every_method
def test_without_a_closure_it_says_what_to_do(method):
    t = task(mlp(), (20, 4))
    for act in (method.propose, method.gains):
        if act(t.view, t.axes["0"], 1) is not None:
            with pytest.raises(ConfigError, match=r"plasticity\.step\(loss, closure\)"):
                act(replace(t.view, closure=None), t.axes["0"], 1)


@every_method
def test_a_closure_that_is_not_a_loss_is_refused(method):
    t = task(mlp(), (20, 4))
    for closure, message in (
        (lambda: t.loss().detach(), "without a graph"),
        (lambda: t.model(t.x), r"a tensor of shape \(20, 3\)"),
        (lambda: 3.0, "returned float"),
        (lambda: t.loss() * float("nan"), "loss of nan"),
    ):
        with pytest.raises(SignalError, match=message):
            method.propose(replace(t.view, closure=closure), t.axes["0"], 1)


@every_method
def test_a_closure_that_runs_the_backward_pass_itself_is_refused(method):
    t = task(mlp(), (20, 4))

    def closure():
        loss = t.loss()
        loss.backward()
        return loss

    with pytest.raises(SignalError, match="without a backward pass"):
        method.propose(replace(t.view, closure=closure), t.axes["0"], 1)


@every_method
def test_a_loss_that_was_computed_already_is_no_closure(method):
    t = task(mlp(), (20, 4))
    with pytest.raises(ConfigError, match=r"must be a function .* got Tensor"):
        method.propose(replace(t.view, closure=t.loss()), t.axes["0"], 1)


@every_method
def test_plans_and_gains_agree_and_repeat(method):
    t = task(mlp(norm=True), (20, 4))
    view = t.view
    plans = [method.propose(view, t.axes["0"], 3) for _ in range(2)]
    gains = method.gains(view, t.axes["0"], 3)
    assert plans[0].gather == plans[1].gather
    assert plans[0].gains == plans[1].gains
    assert t.grown(plans[0]).loss() == t.grown(plans[1]).loss()
    assert plans[0].births == 3 or plans[0].note
    if gains is not None:
        assert gains.dtype == torch.float64
        assert gains.tolist() == list(plans[0].gains) == sorted(plans[0].gains, reverse=True)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_models_work(method, dtype):
    t = task(mlp(nn.ReLU, norm=True), (20, 4), dtype)
    plan = method.propose(t.view, t.axes["0"], 2)
    after = t.grown(plan)
    assert all(p.dtype == dtype and bool(p.isfinite().all()) for p in after.model.parameters())
    assert all(gain >= 0 for gain in plan.gains)


@every_method
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
def test_one_sample_and_constant_inputs_do_no_harm(method, activation):
    for make, shape in ((mlp(activation), (1, 4)), (mlp(activation), (8, 4)), (convolution, (1, 2, 4, 4))):
        t = task(make, shape)
        t.x = torch.ones_like(t.x)
        after = t.grown(method.propose(t.view, t.axes["0"], 2))
        assert all(bool(p.isfinite().all()) for p in after.model.parameters())
        assert after.loss().isfinite()


@every_method
def test_frozen_weights_and_fresh_batches_do_no_harm(method):
    t = task(mlp(nn.Tanh), (20, 4))
    for parameter in t.model[2].parameters():
        parameter.requires_grad_(False)
    view = replace(t.view, closure=lambda: t.model(torch.randn(9, 4, dtype=torch.float64)).square().mean())
    after = t.grown(method.propose(view, t.axes["0"], 2))
    assert after.loss().isfinite()
    assert not after.model[2].weight.requires_grad


@every_method
def test_no_grad_around_does_no_harm(method):
    t = task(mlp(nn.Tanh), (20, 4))
    expected = method.propose(t.view, t.axes["0"], 2)
    with torch.no_grad():
        found = method.propose(t.view, t.axes["0"], 2)
    assert found.gains == expected.gains
