"""Parity of newborns with known relations to incumbents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem import diagnose
from meristem.axes import Role
from meristem.edit import Gather, Newborns, Slice
from meristem.errors import ConfigError
from meristem.signals import Recorder, UnitActivity, View


@dataclass(frozen=True)
class Clones(Newborns):
    """Copies with a fan-out of their own scale; incumbents stay as they are."""

    scale: float

    def values(self, s: Slice) -> Tensor:
        raise AssertionError("every clone has a source")

    def weight_factor(self, s: Slice) -> Tensor | None:
        if Role.READS not in s.roles:
            return None
        return torch.ones(len(s.newborn), dtype=torch.float64).masked_fill(s.newborn, self.scale)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


MODELS = {"mlp": (mlp, (9, 5), "2"), "convnet": (convnet, (9, 2, 10, 10), "3")}
"""With the name of the last hidden axis."""


def grown(name: str, scale: float) -> tuple[nn.Module, meristem.AxisMap, Tensor, Tensor]:
    """A model whose last hidden axis holds a clone of every unit, its map, an input, ages."""
    build, shape, last = MODELS[name]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    model(x)
    axes = meristem.trace(model, x)
    n = axes[last].size
    after = meristem.Edit(axes).gather(last, Gather.duplicate(n, range(n)), Clones(scale)).commit().axes
    ages = torch.cat([torch.full((n,), torch.iinfo(torch.int64).max), torch.full((n,), 7)])
    return model, after, x, ages


def measured(axes: meristem.AxisMap, axis: meristem.Axis, x: Tensor) -> diagnose.Activity:
    recorder = Recorder(axes, [UnitActivity(axis.name)])
    axes.model(x).sin().square().sum(1).mean().backward()
    return recorder.finish()[UnitActivity(axis.name)]


@pytest.mark.parametrize("scale", [1.0, 0.3, 2.5, 0.0])
@pytest.mark.parametrize("name", MODELS)
def test_clones_with_a_scaled_fan_out(name, scale):
    _model, axes, x, ages = grown(name, scale)
    axis = axes[MODELS[name][2]]
    found = diagnose.Parity.of(View(axes, ages={axis.name: ages}), axis, measured(axes, axis, x))
    assert (found.newborns, found.incumbents) == (axis.size // 2, axis.size // 2)
    assert found.activation == pytest.approx(1, abs=1e-9)
    assert found.gradient == pytest.approx(scale, abs=1e-9)
    assert found.fan_in == pytest.approx(1, abs=1e-9)
    assert found.fan_out == pytest.approx(scale, abs=1e-9)
    assert found.fan_in_gradient == pytest.approx(scale, abs=1e-9)
    assert found.fan_out_gradient == pytest.approx(1, abs=1e-9)
    assert found.log_activation == pytest.approx(0, abs=1e-9)
    assert found.log_gradient == (pytest.approx(math.log(scale), abs=1e-9) if scale else -math.inf)


def test_every_unit_is_compared_with_its_own_clone_too():
    _model, axes, x, _ = grown("mlp", 0.3)
    axis = axes["2"]
    activity = measured(axes, axis, x)
    n = axis.size // 2
    assert torch.allclose(activity.gradient[n:], 0.3 * activity.gradient[:n], rtol=0, atol=1e-12)
    assert torch.allclose(activity.frequency[n:], activity.frequency[:n], rtol=0, atol=1e-12)


def test_zero_fan_out_by_the_growth_method_has_no_gradient():
    torch.manual_seed(0)
    model, x = mlp().double(), torch.randn(9, 5, dtype=torch.float64)
    axes = meristem.Edit(meristem.trace(model, x)).grow("2", 3).commit().axes
    axis = axes["2"]
    ages = torch.tensor([torch.iinfo(torch.int64).max] * 4 + [0] * 3)
    found = diagnose.Parity.of(View(axes, ages={axis.name: ages}), axis, measured(axes, axis, x))
    assert (found.gradient, found.fan_out, found.fan_in_gradient) == (0, 0, 0)
    assert found.activation > 0
    assert found.fan_out_gradient > 0


def test_cohorts():
    never = torch.iinfo(torch.int64).max
    ages = torch.tensor([never, 0, 5, never, 12])
    assert diagnose.newborns(ages).tolist() == [False, True, True, False, True]
    assert diagnose.newborns(ages, 5).tolist() == [False, True, True, False, False]
    assert diagnose.newborns(ages, never).tolist() == [False, True, True, False, True]


def test_ratios():
    ones = torch.ones(3)
    assert diagnose.parity(2 * ones, torch.tensor([4.0, 6.0])) == pytest.approx(0.4, abs=1e-12)
    assert diagnose.parity(0 * ones, 0 * ones) == 0
    assert diagnose.log_parity(math.e) == pytest.approx(1)
    assert diagnose.log_parity(0.0) == -math.inf
    with pytest.raises(ConfigError, match="got 0 and 3"):
        diagnose.parity(torch.ones(0), ones)


def test_what_cannot_be_compared_is_refused():
    _model, axes, x, ages = grown("mlp", 1.0)
    axis = axes["2"]
    activity = measured(axes, axis, x)
    with pytest.raises(ConfigError, match="newborns and incumbents"):
        diagnose.Parity.of(View(axes), axis, activity)
    after = meristem.Edit(axes).prune("2", [0]).commit().axes
    with pytest.raises(ConfigError, match="record it after the edit"):
        diagnose.Parity.of(View(after, ages={axis.name: ages[1:]}), after["2"], activity)


def test_it_goes_with_a_controller():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(9, 5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    plasticity = meristem.Plasticity(
        model, optimizer, x, grow=meristem.grow.Paired(), schedule=meristem.schedule.At(2, grow=4), axes="2"
    )
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        plasticity.step(loss)
    axis = plasticity.axes["2"]
    view = View(plasticity.axes, ages=plasticity.ages)
    found = diagnose.Parity.of(view, axis, measured(plasticity.axes, axis, x))
    assert (found.newborns, found.incumbents) == (4, 4)
    assert found.gradient > 0
