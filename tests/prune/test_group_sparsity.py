"""The penalty of the group norm: its gradient is that of the published code, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError, EditError, StaleMapError
from meristem.prune import GroupNorm, GroupSparsity
from meristem.signals import View


def test_each_weight_is_pushed_by_the_factor_of_its_unit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3)).double()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
    axes = meristem.trace(model, torch.randn(2, 2, 7, 7, dtype=torch.float64))
    s = GroupNorm().scores(View(axes), axes["0"]).sqrt()
    r = 2 ** (3.0 * (s.max() - s) / (s.max() - s.min()))
    assert float(r.min()) == 1.0
    assert float(r.max()) == 8.0
    GroupSparsity(0.1, alpha=3.0)(axes).backward()
    for weight, shape in ((model[0].weight, (-1, 1, 1, 1)), (model[1].weight, (-1,)), (model[3].weight, (1, -1, 1, 1))):
        torch.testing.assert_close(weight.grad, 0.1 * r.reshape(shape) * weight.detach())
    assert model[0].bias.grad is None


def test_a_weight_between_two_axes_is_pushed_by_both():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    axes = meristem.trace(model, torch.randn(2, 3, dtype=torch.float64))
    sparsity = GroupSparsity(1.0)
    sparsity(axes).backward()
    r = {name: sparsity.factors(GroupNorm().scores(View(axes), axes[name])) for name in ("0", "2")}
    weight = model[2].weight
    torch.testing.assert_close(weight.grad, (r["0"][None, :] + r["2"][:, None]) * weight.detach())


def test_equal_units_are_pushed_alike_and_faults():
    assert GroupSparsity().factors(torch.ones(4)).tolist() == [1.0] * 4
    with pytest.raises(ConfigError, match="strength"):
        GroupSparsity(-1.0)
    with pytest.raises(EditError, match="found none"):
        GroupSparsity()(meristem.trace(nn.Linear(3, 2), torch.randn(1, 3)))


def test_a_map_from_before_an_edit_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    axes = meristem.trace(model, torch.randn(2, 3))
    later = meristem.Edit(axes).prune("0", [1]).commit().axes
    with pytest.raises(StaleMapError, match="the map says"):
        GroupSparsity()(axes)
    assert GroupSparsity()(later) > 0
