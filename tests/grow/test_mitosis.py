"""Mitosis: who divides, exactness, norms, gradients as large as the incumbents', and copies that part."""

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit
from meristem.errors import ConfigError, SignalError
from meristem.grow import Mitosis
from meristem.grow.mitosis import busiest
from meristem.signals import FanInGradient, View
from meristem.signals.direct import Recording


def net(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(24)] if norm else []
    layers = [nn.Conv2d(3, 24, 3, padding=1), *middle, nn.ReLU(), nn.Conv2d(24, 16, 3), nn.Flatten(), nn.Linear(256, 5)]
    return nn.Sequential(*layers).double()


X = torch.randn(8, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 5


def record(model, axes):
    recording = Recording(axes, [FanInGradient("0")])
    nn.functional.cross_entropy(model(X), Y).backward()
    return recording.finish()


def divided(model, count, kick=1.0):
    axes = trace(model, X)
    signals = record(model, axes)
    view = View(axes, signals=signals, generator=torch.Generator().manual_seed(2))
    plan = Mitosis(kick).propose(view, axes["0"], count)
    return plan, Edit(axes).gather(plan.axis, plan.gather, plan.start).commit().axes


def test_parents_are_those_whose_shared_gradient_is_largest():
    assert busiest(torch.tensor([1.0, 5.0, 2.0]), 4) == [1, 1, 2, 1]
    assert busiest(torch.tensor([1.0, 1.0]), 2) == [0, 1]


def test_fan_in_gradients_are_those_of_the_whole_step():
    model = net()
    axes = trace(model, X)
    recording = Recording(axes, [FanInGradient("0")])
    model.zero_grad()
    for part in (slice(0, 3), slice(3, 8)):
        (len(X[part]) / 8 * nn.functional.cross_entropy(model(X[part]), Y[part])).backward()
    expected = model[0].weight.grad.flatten(1).norm(dim=1)
    assert torch.allclose(recording.finish()[FanInGradient("0")], expected, rtol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_function_is_preserved(norm, train):
    model = net(norm)
    axes = trace(model, X)
    signals = record(model, axes)
    plan = Mitosis().propose(View(axes, signals=signals), axes["0"], 10)
    model.train(train)
    before = model(X)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    assert plan.births == 10
    assert not plan.inexact
    assert torch.allclose(model(X), before, rtol=0, atol=1e-12)
    assert model[0].out_channels == 34


def test_copies_keep_the_norm_of_their_parents_fan_out():
    model = net()
    old = model[2].weight.detach().flatten(2).transpose(0, 1).flatten(1).norm(dim=1)
    plan, _ = divided(model, 24)
    new = model[2].weight.detach().flatten(2).transpose(0, 1).flatten(1).norm(dim=1)
    assert torch.allclose(new / old[plan.gather.index], torch.ones(48, dtype=torch.float64), atol=0.25)
    assert abs(float((new / old[plan.gather.index]).mean()) - 1) < 0.03


def test_newborns_are_not_starved_and_part_from_their_parents():
    model = net()
    plan, axes = divided(model, 8)
    model.zero_grad()
    gradients = record(model, axes)[FanInGradient("0")]
    born = plan.gather.newborn_mask
    assert float(gradients[born].mean() / gradients[~born].mean()) > 0.9
    parents = torch.tensor([plan.gather.sources[i] for i in range(len(plan.gather)) if born[i]])
    there, here = model[0].weight.grad[parents].flatten(1), model[0].weight.grad[born].flatten(1)
    assert float(nn.functional.cosine_similarity(there, here).max()) < 0.999


def test_without_gradients_nothing_is_proposed():
    model = net()
    recording = Recording(trace(model, X), [FanInGradient("0")])
    with pytest.raises(SignalError, match=r"no finite gradient was seen at the weights that produce 0"):
        recording.finish()


@pytest.mark.parametrize("kick", [0.0, -1.0, 1.1, float("nan")])
def test_settings_are_checked(kick):
    with pytest.raises(ConfigError, match="kick"):
        Mitosis(kick)
