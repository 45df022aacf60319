"""SWE: what is moved is conserved, gradients are right, and training helps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meristem.edit import Change, Gather, ZeroFanOut, trial
from meristem.errors import ConfigError
from meristem.grow import SWE
from meristem.grow.parts.closure import placed, pulled_back, reseeded
from meristem.grow.swe import Shared
from tests.edit.models import subject
from tests.grow.closures import Recurrent, convolution, mlp, task

TASKS = {
    "relu": (mlp(nn.ReLU), (30, 4), "0"),
    "norm": (mlp(nn.Tanh, norm=True), (30, 4), "0"),
    "convolution": (convolution, (6, 2, 4, 4), "0"),
    "recurrent": (Recurrent, (20, 4), "first"),
}


@pytest.mark.parametrize("name", TASKS)
def test_with_nothing_shared_the_function_is_preserved(name):
    make, shape, axis = TASKS[name]
    t = task(make, shape)
    plan = SWE(steps=0, scale=0).propose(t.view, t.axes[axis], 3)
    torch.testing.assert_close(t.grown(plan).model(t.x), t.model(t.x), rtol=1e-12, atol=1e-12)
    assert plan.inexact == ()


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_sums_over_all_units_are_conserved(rank):
    t = task(mlp(nn.ReLU), (30, 4))
    still = t.grown(SWE(steps=0, scale=0, rank=rank).propose(t.view, t.axes["0"], 3)).model
    plan = SWE(steps=20, learning_rate=0.05, rank=rank).propose(t.view, t.axes["0"], 3)
    moved = t.grown(plan).model
    assert (moved[0].weight - still[0].weight).abs().max() > 0.01
    torch.testing.assert_close(moved[0].weight.sum(0), still[0].weight.sum(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved[0].bias.sum(), still[0].bias.sum(), rtol=1e-12, atol=1e-12)
    assert plan.inexact


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_are_finite_differences_and_the_plan_is_what_was_trained(name, rank):
    make, shape, axis = TASKS[name]
    t = task(make, shape)
    shared = Shared(reseeded(t.view, t.axes[axis]), t.axes[axis], 3, SWE(rank=rank, scale=0.1))
    view, size = t.view, t.axes[axis].size
    with trial(t.axes, [Change(t.axes[axis], Gather.grow(size, 3), ZeroFanOut())]) as tried:
        for leaf, found in zip(shared.leaves, pulled_back(view, tried, shared.tensors(), shared.leaves), strict=True):
            direction = torch.randn_like(leaf)

            def at(step, leaf=leaf, direction=direction):
                with torch.no_grad():
                    leaf.add_(direction, alpha=step)
                    placed(tried, shared.tensors())
                    value = t.loss()
                    leaf.sub_(direction, alpha=step)
                return value

            measured = (at(1e-6) - at(-1e-6)) / 2e-6
            torch.testing.assert_close((found * direction).sum(), measured, rtol=1e-5, atol=1e-10)
        with torch.no_grad():
            shared.leaves[-1].add_(0.1 * torch.randn_like(shared.leaves[-1]))
        placed(tried, {name: tensor.detach() for name, tensor in shared.tensors().items()})
        expected = t.loss().detach()
    plan = SWE(steps=0).propose(t.view, t.axes[axis], 3)
    start = shared.start("shared", plan.start.new.entries, ())
    grown = t.grown(type(plan)(plan.axis, plan.gather, start))
    torch.testing.assert_close(grown.loss().detach(), expected, rtol=1e-10, atol=0)


def test_a_rank_bounds_what_is_trained():
    t = task(mlp(), (30, 4))
    full, small = (Shared(t.view, t.axes["0"], 4, SWE(rank=rank)) for rank in (None, 1))
    assert full.leaves[0].numel() == 4 * 6 * 5
    assert sum(leaf.numel() for leaf in small.leaves[:2]) == 4 + 6 * 5


def test_training_decreases_the_loss_and_readers_may_rest():
    t = task(mlp(nn.ReLU), (30, 4))
    trained = t.grown(SWE(steps=50).propose(t.view, t.axes["0"], 3))
    assert float(trained.loss()) < float(t.loss())
    rested = t.grown(SWE(steps=50, readers=False).propose(t.view, t.axes["0"], 3)).model
    torch.testing.assert_close(rested[2].weight[:, :6], t.model[2].weight, rtol=0, atol=0)
    assert not rested[2].weight[:, 6:].any()


def test_axes_and_settings_that_do_not_fit_are_refused():
    tied, queries = subject("tied_autoencoder"), subject("grouped_query")
    assert "produces and reads" in (SWE().undefined(tied.axes, tied.axes["first"]) or "")
    assert all(SWE().undefined(queries.axes, axis) is None for axis in queries.axes.editable)
    for settings in ({"rank": 0}, {"steps": -1}, {"scale": -1.0}, {"weight_decay": -1.0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError, match="expected"):
            SWE(**settings)
