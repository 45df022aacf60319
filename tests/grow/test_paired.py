"""Newborns in pairs: equal fan-in, opposite fan-out; and how variance transfer rescales what stood before."""

import copy
import math

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import Paired, VarianceTransfer
from meristem.grow.variance_transfer import holders
from meristem.signals import View


def network(between, bias=True, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8, bias=bias), *between, nn.Linear(8, 3)).double()
    return model, torch.randn(7, 6, dtype=torch.float64)


def grown(model, x, method, count=4):
    axes = trace(model, x)
    plan = method.propose(View(axes), axes["0"], count)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    return plan


@pytest.mark.parametrize("method", [Paired(), VarianceTransfer()])
@pytest.mark.parametrize("training", [False, True])
def test_pairs_cancel_behind_batch_norm_in_both_modes(method, training):
    model, x = network([nn.BatchNorm1d(8), nn.ReLU()])
    model.train(training)
    before = copy.deepcopy(model)(x)
    assert not grown(model, x, method).inexact
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_both_sides_learn_at_once_and_halves_part():
    model, x = network([nn.Tanh()])
    grown(model, x, Paired())
    into, out = model[0].weight[8:], model[2].weight[:, 8:]
    assert torch.equal(into[0::2], into[1::2])
    assert torch.equal(out[:, 0::2], -out[:, 1::2])
    model(x).square().sum().backward()
    into, out = model[0].weight.grad[8:], model[2].weight.grad[:, 8:]
    torch.testing.assert_close(into[0::2], -into[1::2])
    assert into.abs().min() > 0
    assert out.abs().min() > 0


def test_incumbents_keep_their_gradients():
    model, x = network([nn.Tanh()])
    old = copy.deepcopy(model)
    grown(model, x, Paired(), count=5)
    for m in (model, old):
        m(x).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad[:8], old[0].weight.grad)
    torch.testing.assert_close(model[2].weight.grad[:, :8], old[2].weight.grad)


def test_the_last_of_an_odd_number_is_not_read():
    model, x = network([nn.ReLU()])
    before = model(x).detach()
    grown(model, x, Paired(), count=5)
    assert not model[2].weight[:, 12].any()
    assert model[0].weight[12].any()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_depthwise_kernels_are_the_same_for_both_halves():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    model, x = nn.Sequential(*layers).double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    before = model(x).detach()
    assert not grown(model, x, Paired()).inexact
    assert torch.equal(model[1].weight[4], model[1].weight[5])
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ([], True),
        ([nn.ReLU()], True),
        ([nn.LeakyReLU(0.1)], True),
        ([nn.Dropout(0.5), nn.ReLU()], True),
        ([nn.ReLU6()], False),
        ([nn.Hardtanh(-500.0, 500.0)], False),
        ([nn.GELU()], False),
        ([nn.Tanh()], False),
        ([nn.Softplus()], False),
        ([nn.BatchNorm1d(8), nn.ReLU()], True),
        ([nn.GELU(), nn.BatchNorm1d(8), nn.ReLU()], True),
        ([nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8)], True),
        ([nn.BatchNorm1d(8), nn.GELU()], False),
        ([nn.BatchNorm1d(8, affine=False), nn.ReLU()], False),
        ([nn.LayerNorm(8)], False),
    ],
    ids=repr,
)
def test_where_activations_scale_with_weights(between, expected):
    model, x = network(between)
    axes = trace(model, x)
    assert (holders(axes, axes["0"]) is not None) is expected


@pytest.mark.parametrize("bias", [False, True])
def test_variance_follows_the_new_width(bias):
    model, x = network([nn.ReLU()], bias)
    old = copy.deepcopy(model)
    before = model(x).detach()
    grown(model, x, VarianceTransfer(), count=24)
    a = math.sqrt(8 / 32)
    torch.testing.assert_close(model[0].weight[:8], old[0].weight / a)
    torch.testing.assert_close(model[2].weight[:, :8], old[2].weight * a)
    if bias:
        torch.testing.assert_close(model[0].bias[:8], old[0].bias / a)
    norms = old[2].weight.norm(dim=0).mean() * a
    torch.testing.assert_close(model[2].weight[:, 8:].norm(dim=0), norms.expand(24))
    torch.testing.assert_close(model[0].weight[8:].norm(dim=1), (old[0].weight.norm(dim=1).mean() / a).expand(24))
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


class Stream(nn.Module):
    """What a norm gives is added to what another gave, and read twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.inner, self.second = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(self.stem(x)))
        return self.head(torch.relu(x + self.second(self.inner(x))))


class WithAndWithout(nn.Module):
    """One activation is read through a norm and without it."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.stem(x)
        return self.left(torch.relu(self.norm(h))) + self.right(torch.relu(h))


def normed(kind):
    """A net with norms that have seen data, whose scales are not 1."""
    torch.manual_seed(0)
    convolutional = [nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4),
                     nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)]  # fmt: skip
    dense = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
    built = {"dense": nn.Sequential(*dense), "conv": nn.Sequential(*convolutional), "stream": Stream(),
             "with and without": WithAndWithout()}  # fmt: skip
    model, x = built[kind].double(), torch.randn(12, 6, *((6, 6) if kind == "conv" else ()), dtype=torch.float64)
    model(x)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(x)
    return model, x, "0" if kind in ("dense", "conv") else "stem"


@pytest.mark.parametrize("kind", ["dense", "conv", "stream", "with and without"])
def test_behind_batch_norm_too_variance_follows_the_new_width_and_the_function_stays(kind):
    model, x, name = normed(kind)
    old = copy.deepcopy(model)
    axes = trace(model, x)
    plan = VarianceTransfer().propose(View(axes), axes[name], 24)
    assert not plan.inexact
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    for training in (True, False):
        before, after = (copy.deepcopy(m).train(training)(x) for m in (old, model))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
    a = math.sqrt(8 / 32)
    held = kind != "with and without"
    scales = {"dense": ["1"], "conv": ["1"], "stream": ["first", "second"], "with and without": ["norm"]}[kind]
    readers = {"dense": ["3"], "conv": ["3"], "stream": ["inner", "head"], "with and without": ["left", "right"]}[kind]
    producers = {"stream": ["stem", "inner"]}.get(kind, [name])
    for other in scales:
        found, known = model.get_submodule(other), old.get_submodule(other)
        for ours, theirs in ((found.weight, known.weight), (found.bias, known.bias)):
            torch.testing.assert_close(ours[:8], theirs / a if held else theirs)
        assert torch.equal(found.running_mean[:8], known.running_mean)
        assert torch.equal(found.running_var[:8], known.running_var)
        torch.testing.assert_close(found.weight[8:], torch.full((24,), 1 / a if held else 1.0, dtype=torch.float64))
        assert not found.bias[8:].any()
    for reader in readers:
        found, known = model.get_submodule(reader).weight.detach(), old.get_submodule(reader).weight.detach()
        torch.testing.assert_close(found[: len(known), :8], known * a if held else known)
        if reader not in producers:
            norms = known.transpose(0, 1).flatten(1).norm(dim=1).mean() * a
            torch.testing.assert_close(found[:, 8:].transpose(0, 1).flatten(1).norm(dim=1), norms.expand(24))
    for producer in producers:
        known = old.get_submodule(producer).weight
        found = model.get_submodule(producer).weight[:8, : known.shape[1]]
        torch.testing.assert_close(found, known * a if held and producer in readers else known)


def gathered(model, x):
    """Adam with the state that three steps leave, which move nothing."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    for step in range(3):
        (model(x * (1 + step)) ** 3).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_adams_state_of_scales_and_shifts_follows_too():
    model, x, _ = normed("dense")
    wide = copy.deepcopy(model)

    optimizer = gathered(model, x)
    axes = trace(model, x)
    plan = VarianceTransfer().propose(View(axes), axes["0"], 24)
    Edit(axes, optimizer).gather(plan.axis, plan.gather, plan.start).commit()
    grown(wide, x, VarianceTransfer(), count=24)
    state = gathered(wide, x).state
    for ours, theirs in ((model[1].weight, wide[1].weight), (model[1].bias, wide[1].bias)):
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[ours][key][:8], state[theirs][key][:8], rtol=1e-9, atol=1e-12)


def test_around_other_activations_incumbents_stay():
    model, x = network([nn.GELU()])
    old = copy.deepcopy(model)
    grown(model, x, VarianceTransfer(), count=24)
    assert torch.equal(model[0].weight[:8], old[0].weight)
    assert torch.equal(model[2].weight[:, :8], old[2].weight)
    norms = old[2].weight.norm(dim=0).mean() * math.sqrt(8 / 32)
    torch.testing.assert_close(model[2].weight[:, 8:].norm(dim=0), norms.expand(24))


def test_adams_state_follows_the_rescaling():
    """State that gathered before the edit is what the rescaled model would have gathered."""
    model, x = network([nn.ReLU()])
    wide = copy.deepcopy(model)

    optimizer = gathered(model, x)
    axes = trace(model, x)
    plan = VarianceTransfer().propose(View(axes), axes["0"], 24)
    Edit(axes, optimizer).gather(plan.axis, plan.gather, plan.start).commit()
    grown(wide, x, VarianceTransfer(), count=24)
    state = gathered(wide, x).state
    for key in ("exp_avg", "exp_avg_sq"):
        found, expected = optimizer.state[model[0].weight][key][:8], state[wide[0].weight][key][:8]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        found, expected = optimizer.state[model[2].weight][key][:, :8], state[wide[2].weight][key][:, :8]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_refusals():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return self.q(x) @ self.k(x).transpose(-1, -2)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6))

        def forward(self, x):
            return torch.tanh(x @ self.weight.T) @ self.weight

    scores, tied = Scores(), Tied()
    for model, name, reason in ((scores, "q", "two activations"), (tied, "weight", "both produces and reads")):
        axes = trace(model, torch.randn(2, 6))
        for method in (Paired(), VarianceTransfer()):
            assert reason in (method.undefined(axes, axes[name]) or "")
    for kind in (Paired, VarianceTransfer):
        with pytest.raises(ConfigError, match="above 0"):
            kind(fan_out=0.0)
