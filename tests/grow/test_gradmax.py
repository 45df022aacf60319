"""GradMax: the gradient of newborns is what is predicted, and as large as it can be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import AxisMap
from meristem.axes.map import Role
from meristem.edit import Explicit
from meristem.errors import ConfigError, EditError
from meristem.grow import GradMax, Growth
from meristem.signals import View, unit_norms
from tests.grow.sites import MANY_PRODUCERS, SITES, commit, make, objective, planned

ACTIVATIONS = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "leaky relu": nn.LeakyReLU(0.1), "gelu": nn.GELU()}


def slices(axes: AxisMap, axis: int, born: int, role: Role, gradients: bool) -> Tensor:
    """All newborn slices of one role, one row per newborn."""
    rows = []
    for place in axes.places[axis]:
        if role in place.roles and not place.layout.buffer:
            parameter = axes.model.get_parameter(place.layout.name)
            tensor = parameter.grad if gradients else parameter.detach()
            assert tensor is not None
            moved = tensor.movedim(place.dim, 0)
            per_unit = moved.reshape(axes.axes[axis].size, -1)
            rows.append(per_unit[-born:])
    return torch.cat(rows, 1)


def newborn_gradient(axes: AxisMap, plan: Growth, loss: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Squared gradient norm of each newborn's fan-in (with bias), and its fan-out gradient, after the plan."""
    after = commit(axes, plan)
    loss().backward()
    fan_in = slices(after, plan.axis.index, plan.births, Role.PRODUCES, gradients=True).square().sum(1)
    for path in {p.producer.bias for p in after.paths[plan.axis.index]}:
        gradient = None if path is None else after.model.get_parameter(path).grad
        if gradient is not None:
            fan_in = fan_in + gradient[-plan.births :].square()
    return fan_in, slices(after, plan.axis.index, plan.births, Role.READS, gradients=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("site", MANY_PRODUCERS)
def test_gradient_is_what_is_predicted(site: str, activation: str) -> None:
    model, x, labels, axis = make(MANY_PRODUCERS[site], ACTIVATIONS[activation])
    loss = objective(model, x, labels)
    axes, _, plan = planned(GradMax(), model, loss, x, axis, 2)
    fan_in, fan_out = newborn_gradient(axes, plan, loss)
    expected = torch.tensor(plan.gains, dtype=torch.float64)
    torch.testing.assert_close(fan_in, expected, rtol=1e-4, atol=1e-14)
    assert plan.births == 2
    assert float(fan_out.abs().max()) < 1e-5  # newborns' activations are zero, or as small as the waking bias


@pytest.mark.parametrize("site", ["linear", "same", "strided", "flattened", "averaged", "stream", "shared"])
def test_no_orthogonal_fan_out_of_that_norm_has_a_larger_gradient(site: str) -> None:
    model, x, labels, axis = make(MANY_PRODUCERS[site], nn.Tanh())
    loss = objective(model, x, labels)
    axes, found, plan = planned(GradMax(), model, loss, x, axis, 2)
    norm = 0.5 * float(unit_norms(View(axes), found, Role.READS).mean())
    assert isinstance(plan.start, Explicit)
    reading = {k: v for k, v in plan.start.entries.items() if float(v.abs().max()) > 1e-5}
    widths = [v[0].numel() for v in reading.values()]
    best = sum(plan.gains)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        drawn = torch.randn(sum(widths), 2, dtype=torch.float64, generator=generator)
        columns = norm * torch.linalg.qr(drawn).Q.T
        entries = dict(plan.start.entries)
        for (key, old), part in zip(reading.items(), columns.split(widths, 1), strict=True):
            entries[key] = part.reshape(old.shape)
        with meristem.edit.trial(axes, [meristem.edit.Change(found, plan.gather, Explicit("random", entries))]) as t:
            parameters = {p.producer.weight for p in axes.paths[found.index]}
            biases = {p.producer.bias for p in axes.paths[found.index]} - {None}
            tensors = [t.parameter(str(name)) for name in (*parameters, *biases)]
            gradients = torch.autograd.grad(loss(), tensors)
            names = [str(name) for name in (*parameters, *biases)]
            total = 0.0
            for name, gradient in zip(names, gradients, strict=True):
                dim = next(p.dim for p in axes.places[found.index] if p.layout.name == name)
                born = t.newborn(name, dim, found.index)
                total += float(gradient.index_select(dim, born).square().sum())
        assert total <= best * (1 + 1e-9)


@pytest.mark.parametrize("site", MANY_PRODUCERS)
def test_function_is_preserved(site: str) -> None:
    for name, tolerance in (("tanh", 1e-12), ("relu", 1e-5)):
        model, x, labels, axis = make(MANY_PRODUCERS[site], ACTIVATIONS[name])
        axes, _, plan = planned(GradMax(), model, objective(model, x, labels), x, axis, 3)
        before = model(x).detach()
        commit(axes, plan)
        torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=tolerance)
        assert bool(plan.inexact) == (name == "relu")


def test_fan_outs_are_orthogonal_and_of_the_set_norm() -> None:
    model, x, labels, axis = make(SITES["same"], nn.Tanh())
    axes, found, plan = planned(GradMax(scale=0.25), model, objective(model, x, labels), x, axis, 3)
    mean = float(unit_norms(View(axes), found, Role.READS).mean())
    fan_out = slices(commit(axes, plan), found.index, 3, Role.READS, gradients=False)
    torch.testing.assert_close(fan_out @ fan_out.T, (0.25 * mean) ** 2 * torch.eye(3, dtype=torch.float64))


def refusal(model: nn.Module, x: Tensor) -> str:
    axes = meristem.trace(model, x)
    with pytest.raises(EditError) as caught:
        meristem.grow.require_defined(GradMax(), axes, [axes["0"]])
    return str(caught.value)


def test_what_is_refused_names_the_reason_and_what_would_work() -> None:
    x = torch.randn(2, 3)
    norm = refusal(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), x)
    assert "batch normalization" in norm
    assert "ZeroFanOut" in norm
    assert "not 0 at 0" in refusal(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)), x)
    assert "no bias" in refusal(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)), x)
    assert "derivative 0" in refusal(nn.Sequential(nn.Linear(3, 4), nn.Hardshrink(), nn.Linear(4, 2)), x)


def test_a_scale_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        GradMax(scale=0)
