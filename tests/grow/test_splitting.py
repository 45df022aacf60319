"""Splitting: the curvature is that of the loss, the directions are the best, and the plan does what it predicts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from meristem.edit import Change, Edit, Gather, trial
from meristem.errors import ConfigError
from meristem.grow import FastSplitting, Net2Wider, Splitting
from meristem.grow.parts.kinks import RoundedKinks
from meristem.signals import View
from tests.edit.models import subject
from tests.grow.closures import Recurrent, convolution, mlp, task

EPSILON = 1e-3
SMOOTH = {
    "linear": (mlp(nn.Tanh), (40, 4), "0"),
    "second": (mlp(nn.GELU), (40, 4), "2"),
    "norm": (mlp(nn.Tanh, norm=True), (40, 4), "0"),
    "convolution": (convolution, (8, 2, 4, 4), "0"),
    "recurrent": (Recurrent, (30, 4), "first"),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_loss_changes_by_the_least_eigenvalue(name, training):
    make, shape, axis = SMOOTH[name]
    t = task(make, shape)
    t.model.train(training)
    for count in (1, 2):
        plan = Splitting(EPSILON, iterations=99).propose(t.view, t.axes[axis], count)
        assert plan.births == count
        measured = (t.loss() - t.grown(plan).loss()).detach()
        torch.testing.assert_close(float(measured), sum(plan.gains), rtol=1e-4, atol=0)


def test_it_is_the_least_eigenvalue_of_the_splitting_matrix():
    t = task(mlp(nn.Tanh), (40, 4))
    h = t.model[0](t.x)
    delta = torch.autograd.grad(
        (t.model[2:](h.tanh().detach().requires_grad_()) - t.y).square().mean(), t.model[2].weight
    )
    assert delta
    a = h.tanh().detach().requires_grad_()
    gradient = torch.autograd.grad((t.model[2:](a) - t.y).square().mean(), a)[0]
    curvature = -2 * h.tanh() * (1 - h.tanh() ** 2)
    matrices = torch.einsum("nu,ni,nj->uij", gradient * curvature, t.x, t.x)
    expected = -torch.linalg.eigvalsh(matrices)[:, 0].sort().values * EPSILON**2 / 2
    gains = Splitting(EPSILON).gains(t.view, t.axes["0"], 6)
    torch.testing.assert_close(gains, expected[expected > 0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", [Splitting(EPSILON), FastSplitting(EPSILON)], ids=["exact", "fast"])
def test_only_units_that_curve_down_are_split(method):
    t = task(mlp(nn.Tanh), (40, 4))
    plan = method.propose(t.view, t.axes["2"], 40)
    assert 0 < plan.births <= 5
    assert len(set(plan.gather.sources[5:])) == plan.births
    assert all(gain > 0 for gain in plan.gains)
    assert list(plan.gains) == sorted(plan.gains, reverse=True)
    assert f"{plan.births} of 40" in (plan.note or "")
    assert plan.inexact


def test_the_fast_one_approaches_the_exact_one_from_above():
    t = task(mlp(nn.Tanh), (40, 4))
    exact = sum(Splitting(EPSILON).gains(t.view, t.axes["0"], 3))
    found = [sum(FastSplitting(EPSILON, steps=n).gains(t.view, t.axes["0"], 3)) for n in (0, 3, 100)]
    assert found[0] < found[1] < found[2] <= exact * (1 + 1e-9)
    assert found[2] > 0.999 * exact


def test_relu_gets_the_curvature_of_softplus():
    t = task(mlp(nn.ReLU), (40, 4))
    z = t.model[0](t.x).detach()
    a = z.relu().requires_grad_()
    delta = torch.autograd.grad((t.model[2:](a) - t.y).square().mean(), a)[0]
    s = torch.sigmoid(3 * z)
    matrices = torch.einsum("nu,ni,nj->uij", delta * 3 * s * (1 - s), t.x, t.x)
    lowest = torch.linalg.eigvalsh(matrices)[:, 0].sort().values
    expected = -lowest[lowest < -1e-9 * lowest.abs().max()] * EPSILON**2 / 2
    torch.testing.assert_close(Splitting(EPSILON).gains(t.view, t.axes["0"], 6), expected, rtol=1e-9, atol=0)


KINKED = {
    "relu": lambda z: nn.functional.relu(z),
    "torch.relu": torch.relu,
    "in place": lambda z: nn.functional.relu(z.clone(), inplace=True),
    "method": lambda z: z.clone().relu_(),
    "leaky": lambda z: nn.functional.leaky_relu(z, 0.2),
    "relu6": lambda z: nn.functional.relu6(z),
    "hardtanh": lambda z: nn.functional.hardtanh(z, -0.5, 1.5),
    "clamp": lambda z: z.clamp(min=0),
    "two-sided": lambda z: torch.clamp(z, -1.0, max=1.0),
    "abs": torch.abs,
}


@pytest.mark.parametrize("name", KINKED)
def test_rounded_kinks_keep_values_and_slopes(name):
    function = KINKED[name]
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)[1::2].requires_grad_()
    plain, slope = function(z), torch.autograd.grad(function(z).sum(), z)[0]
    with RoundedKinks(3.0):
        value = function(z)
    found = torch.autograd.grad(value.sum(), z, create_graph=True)[0]
    torch.testing.assert_close(value, plain, rtol=0, atol=0)
    torch.testing.assert_close(found, slope, rtol=0, atol=0)
    curvature = torch.autograd.grad(found.sum(), z)[0]
    spacing = float(z[1] - z[0])
    total = float(slope[-1] - slope[0])
    assert abs(float(curvature.sum()) * spacing - total) < 0.02  # the slope rises by as much as that of the function
    assert curvature.abs().max() > 0.1


def test_where_there_is_no_curvature_nothing_is_split():
    t = task(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), (20, 4))
    for method in (Splitting(), FastSplitting()):
        plan = method.propose(t.view, t.axes["0"], 3)
        assert (plan.births, plan.gains) == (0, ())
        assert "no curvature" in (plan.note or "")
        assert not len(method.gains(t.view, t.axes["0"], 3))


def linear(*widths: int) -> nn.Module:
    """The first units are read linearly, but the loss curves in what reads them."""
    first, *others = (nn.Linear(n, m) for n, m in itertools.pairwise(widths))
    return nn.Sequential(first, *(layer for other in others for layer in (other, nn.GELU())))


@pytest.mark.parametrize("method", [Splitting(), FastSplitting()], ids=["exact", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_rounding_is_no_curvature(method, dtype, factor):
    """With these widths sums over copies do not cancel to the last bit."""
    t = task(lambda: linear(64, 128, 100, 10), (256, 64), dtype)
    for offset in (0.0, 100.0):
        t.x = t.x + offset
        view = View(t.axes, generator=torch.Generator().manual_seed(3), closure=lambda: t.loss() * factor)
        plan = method.propose(view, t.axes["0"], 3)
        assert (plan.births, plan.gains) == (0, ())
        assert "no curvature" in (plan.note or "")


@pytest.mark.parametrize("method", [Splitting(), FastSplitting()], ids=["exact", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curvature_is_found_whatever_the_loss_is_multiplied_by(method, dtype):
    t = task(mlp(nn.Tanh), (40, 4), dtype)
    plans = []
    for factor in (1e-3, 1.0, 1e3):
        view = View(t.axes, generator=torch.Generator().manual_seed(3), closure=lambda f=factor: t.loss() * f)
        plans.append(method.propose(view, t.axes["2"], 3))
        assert plans[-1].births == 3
        assert plans[-1].gather == plans[0].gather
        gains = torch.tensor(plans[-1].gains, dtype=torch.float64) / factor * 1e-3
        torch.testing.assert_close(gains, torch.tensor(plans[0].gains, dtype=torch.float64), rtol=1e-3, atol=0)


def test_halves_are_apart_and_share_the_fan_out():
    t = task(mlp(nn.Tanh), (40, 4))
    plan = Splitting(0.1).propose(t.view, t.axes["0"], 1)
    after, parent = t.grown(plan).model, plan.gather.sources[-1]
    mean = (after[0].weight[parent] + after[0].weight[-1]) / 2
    torch.testing.assert_close(mean, t.model[0].weight[parent])
    assert float((after[0].weight[parent] - after[0].weight[-1]).detach().norm()) == pytest.approx(0.2)
    torch.testing.assert_close(after[2].weight[:, -1], t.model[2].weight[:, parent] / 2)
    torch.testing.assert_close(after[2].weight[:, parent], t.model[2].weight[:, parent] / 2)
    assert after[0].bias[parent] == after[0].bias[-1]


def test_two_axes_may_be_split_at_once():
    t = task(mlp(nn.Tanh), (40, 4))
    plans = [Splitting(EPSILON).propose(t.view, t.axes[name], 2) for name in ("0", "2")]
    edit = Edit(t.axes)
    for plan in plans:
        edit.gather(plan.axis, plan.gather, plan.start)
    before = t.loss().detach()
    edit.commit()
    gains = sum(plans[0].gains) + sum(plans[1].gains)
    assert float(before - t.loss()) == pytest.approx(gains, rel=0.01)


def test_splitting_beside_growth_of_the_other_part_of_a_concatenation():
    """Splits lower the loss as they do alone; the other axis' newborns are read by nobody."""
    losses = []
    for beside in (False, True):
        found = subject("unet")
        view = type(task(mlp(), (4, 4)).view)(found.axes, closure=found.loss)
        plan = Splitting().propose(view, found.axes["merge"], 2)
        edit = Edit(found.axes).gather(plan.axis, plan.gather, plan.start)
        (edit.grow("down1", 2) if beside else edit).commit()
        losses.append(float(found.loss().detach()))
    assert losses[1] == pytest.approx(losses[0], abs=1e-12)


def test_axes_that_cannot_be_split_are_refused():
    normalized, tied = subject("residual_mlp"), subject("tied_autoencoder")
    for method in (Splitting(), FastSplitting()):
        assert "normalized" in (method.undefined(normalized.axes, normalized.axes["stem"]) or "")
        assert "both produces and reads" in (method.undefined(tied.axes, tied.axes["first"]) or "")
    with pytest.raises(ConfigError, match="epsilon"):
        Splitting(epsilon=0)
    with pytest.raises(ConfigError, match="steps"):
        FastSplitting(steps=-1)


def test_copies_are_equal_where_the_curvature_is_taken():
    t = task(mlp(nn.Tanh), (40, 4))
    with trial(t.axes, [Change(t.axes["0"], Gather.duplicate(6, range(6)), Net2Wider())]):
        assert t.model[0].weight[:6].equal(t.model[0].weight[6:])
