"""Penalties on scales: what they compute, where they find the scales, and whom they find dispensable."""

from itertools import product

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError, EditError
from meristem.prune import Polarization, Slimming, batch_norm_scales, polarization, removals, valley
from tests.zoo.judge import subject
from tests.zoo.models import ROWS


class Residual(nn.Module):
    """A stream with two batch normalizations, an inner axis with one, a LayerNorm, and a normalized input."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.stem, self.first = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.up, self.inner = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.down, self.second = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
        self.layer, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(self.stem(self.enter(x)))
        x = x + self.second(self.down(torch.relu(self.inner(self.up(x)))))
        return self.head(self.layer(x.mean((2, 3))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = Residual().double().eval()
    with torch.no_grad():
        for name in ("enter", "first", "inner", "second"):
            found.get_parameter(f"{name}.weight").uniform_(0.1, 1)
    return found


@pytest.fixture
def axes(model):
    return meristem.trace(model, torch.randn(2, 3, 4, 4, dtype=torch.float64))


# ------------------------------------------------------------------ the functions


@pytest.mark.parametrize("t", [-1.0, 0.0, 1.4, 2.0])
def test_the_sub_gradient_of_polarization(t):
    scales = torch.tensor([0.3, 0.0, 0.9, 0.5, 0.4, -0.2, 0.4], dtype=torch.float64, requires_grad=True)
    polarization(scales, t).backward()
    gamma = scales.detach()
    away = torch.sign(gamma - gamma.mean())
    assert torch.allclose(scales.grad, t * torch.sign(gamma) - away + away.mean(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("share", [k / 8 for k in range(9)])
@pytest.mark.parametrize("most", [1.0, 0.7])
def test_the_best_corner_of_the_box_has_the_share_that_t_says(share, most):
    t = 2 - 4 * share
    corners = torch.tensor(list(product([0.0, most], repeat=8)), dtype=torch.float64)
    values = torch.stack([polarization(corner, t) for corner in corners])
    best = corners[values <= values.min() + 1e-10]
    assert torch.allclose((best > 0).double().mean(1), torch.tensor(-t / 4 + 0.5, dtype=torch.float64), atol=1e-10)


def test_no_point_inside_the_box_is_better_than_the_best_corner():
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor(list(product([0.0, 1.0], repeat=8)), dtype=torch.float64)
    least = min(float(polarization(corner, 1.0)) for corner in corners)
    inside = torch.rand(500, 8, dtype=torch.float64, generator=generator)
    assert min(float(polarization(point, 1.0)) for point in inside) >= least


def test_the_valley_is_where_counts_turn_from_falling_to_rising():
    counts = [5, 3, 1, 0, 2, 6, 4, 1, 3, 2]
    scales = torch.cat([torch.full((n,), (i + 0.5) / 10) for i, n in enumerate(counts)])
    assert valley(scales, 0.1) == pytest.approx(0.3)
    assert valley(2 * scales, 0.2, most=2.0) == pytest.approx(0.6)
    assert valley(torch.tensor([0.05, 0.15, 0.15]), 0.5) is None


def test_settings_are_checked(axes):
    with pytest.raises(ConfigError, match="strength"):
        Slimming(-1.0)
    with pytest.raises(ConfigError, match="-2 <= t <= 2"):
        Polarization(t=3.0)
    with pytest.raises(ConfigError, match="share"):
        Slimming().threshold(axes, 1.0)


# ------------------------------------------------------------------ in a model


def test_the_scales_of_batch_normalizations_on_editable_axes_are_found(axes):
    assert batch_norm_scales(axes) == ("first.weight", "inner.weight", "second.weight")


@pytest.mark.parametrize("name", ["rms_norm", "residual_mlp", "group_norm", "mlp"])
def test_other_scales_are_none(name):
    found = subject(next(row for row in ROWS if row.name == name))
    assert batch_norm_scales(found.axes) == ()
    with pytest.raises(EditError, match="found none"):
        Slimming()(found.axes)


@pytest.mark.parametrize("penalty", [Polarization(0.1, 1.2), Slimming(0.1)], ids=repr)
def test_one_line_in_a_loop(model, axes, penalty):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    weights = [model.get_parameter(name) for name in batch_norm_scales(axes)]
    plain = torch.autograd.grad(model(x).square().mean(), weights)
    loss = model(x).square().mean()
    loss = loss + penalty(axes)
    loss.backward()
    gamma = torch.cat([weight.detach() for weight in weights])
    added = torch.cat([weight.grad - before for weight, before in zip(weights, plain, strict=True)])
    away = torch.sign(gamma - gamma.mean())
    expected = 0.1 * (1.2 - away + away.mean() if isinstance(penalty, Polarization) else torch.sign(gamma))
    assert torch.allclose(added, expected.expand_as(added), rtol=0, atol=1e-10)
    assert model.get_parameter("enter.weight").grad is not None


def test_edits_need_no_care(model, axes):
    after = meristem.Edit(axes).prune("up", [1, 3]).commit().axes
    gamma = torch.cat([model.get_parameter(name).detach() for name in batch_norm_scales(after)])
    assert len(gamma) == 6 + 3 + 6
    assert float(Slimming(1.0)(after).detach()) == pytest.approx(float(gamma.abs().sum()))


def test_the_clamp_touches_scales_alone(model, axes):
    with torch.no_grad():
        model.get_parameter("inner.weight").copy_(torch.tensor([-1.0, 0.2, 0.9, 1.5, 3.0]))
        model.get_parameter("enter.weight").fill_(2.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Polarization(most=0.8).clamp(axes)
    assert model.get_parameter("inner.weight").tolist() == pytest.approx([0.0, 0.2, 0.8, 0.8, 0.8])
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= set(batch_norm_scales(axes))


def test_who_goes(model, axes):
    with torch.no_grad():
        model.get_parameter("first.weight").copy_(torch.tensor([0.0, 0.0, 0.9, 0.9, 0.0, 0.9]))
        model.get_parameter("second.weight").copy_(torch.tensor([0.0, 0.9, 0.9, 0.0, 0.0, 0.9]))
        model.get_parameter("inner.weight").copy_(torch.tensor([0.0, 0.0, 0.005, 0.0, 0.0]))
    threshold = Polarization().threshold(axes)
    assert 0.005 < threshold < 0.9
    found = {plan.axis.name: plan.units for plan in removals(axes, threshold)}
    assert found == {axes["stem"].name: (0, 4), axes["up"].name: (0, 1, 3, 4)}
    edit = meristem.Edit(axes)
    for plan in removals(axes, threshold, least=3):
        edit.gather(plan.axis, plan.gather)
    after = edit.commit().axes
    assert (after["stem"].size, after["up"].size) == (4, 3)


def test_a_percentile_of_all_scales(model, axes):
    gamma = torch.cat([model.get_parameter(name).detach() for name in batch_norm_scales(axes)])
    threshold = Slimming().threshold(axes, 0.5)
    assert int((gamma < threshold).sum()) == len(gamma) // 2


def test_scales_that_are_not_polarized_have_no_threshold():
    model = nn.Sequential(nn.Linear(2, 5050), nn.BatchNorm1d(5050), nn.Linear(5050, 2)).eval()
    rising = torch.arange(1, 101).repeat_interleave(torch.arange(1, 101))
    with torch.no_grad():
        model.get_parameter("1.weight").copy_((rising - 0.5) / 100)
    with pytest.raises(ConfigError, match="no valley"):
        Polarization().threshold(meristem.trace(model, torch.randn(2, 2)))


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.4, 0.6), (0.0, 0.0), (0.3, 0.9)], ids=str)
def test_scales_none_or_all_of_which_went_to_zero_have_none_either(scales):
    """The first empty bin passed for a valley."""
    model = nn.Sequential(nn.Linear(2, 200), nn.BatchNorm1d(200), nn.Linear(200, 2)).eval()
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.linspace(*scales, 200))
    axes = meristem.trace(model, torch.randn(2, 2))
    with pytest.raises(ConfigError, match="not polarized yet"):
        Polarization().threshold(axes)
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.cat([torch.zeros(80), torch.linspace(0.4, 0.6, 120)]))
    assert 0 < Polarization().threshold(axes) < 0.4
