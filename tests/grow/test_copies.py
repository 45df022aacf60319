"""Methods that copy: Net2Wider with uneven shares and noise, HyperCloning, Lemon; and zero extension."""

import copy
import math

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import HyperCloning, Lemon, Net2Wider, ZeroExtension
from meristem.grow.parts.norms import norms
from meristem.grow.parts.shares import shares
from meristem.signals import View


def grown(model, x, method, axis, count, optimizers=()):
    axes = trace(model, x)
    plan = method.propose(View(axes, generator=torch.Generator().manual_seed(3)), axes[axis], count)
    Edit(axes, optimizers).gather(plan.axis, plan.gather, plan.start).commit()
    return plan


def mlp(*between):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), *(between or (nn.Tanh(),)), nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)
    return model, torch.randn(7, 6, dtype=torch.float64)


class Stream(nn.Module):
    """A residual stream behind a normalization, which is read raw as well."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.up, self.down = nn.Linear(6, 8), norm(8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)
        self.double()
        for parameter in self.parameters():
            parameter.data += 0.1 * torch.rand_like(parameter)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(self.norm(x)))))


X = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 3.0])
def test_shares_of_one_source_add_up(ratio):
    sources = torch.tensor([0, 1, 2, 2, 0, 2, -1])
    found = shares(sources, ratio)
    total = 1 + ratio + ratio**2
    expected = [1 / (1 + ratio), 1, 1 / total, ratio / total, ratio / (1 + ratio), ratio**2 / total, 1]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_where_nothing_is_copied_every_share_is_whole():
    assert shares(torch.tensor([-1, -1])).tolist() == [1.0, 1.0]


def test_uneven_copies_part_under_sgd():
    model, x = mlp()
    before = model(x).detach()
    plan = grown(model, x, Net2Wider(ratio=3.0), "0", 8)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    parent = plan.gather.sources[8]
    columns = model[2].weight.detach()
    copies = [unit for unit, source in enumerate(plan.gather.sources) if source == parent]
    torch.testing.assert_close(columns[:, copies[1]], 3 * columns[:, copies[0]])
    model(x).square().sum().backward()
    rows = model[0].weight.grad
    torch.testing.assert_close(rows[copies[1]], 3 * rows[copies[0]])


@pytest.mark.parametrize("method", [Net2Wider(noise=0.05), HyperCloning(noise=0.05)])
def test_noise_parts_copies_under_adam_without_changing_the_function(method):
    model, x = mlp()
    old = copy.deepcopy(model)
    plan = grown(model, x, method, "0", 8)
    assert not plan.inexact
    torch.testing.assert_close(model(x), old(x), rtol=0, atol=1e-12)
    sources = torch.tensor(plan.gather.sources)
    total = torch.zeros(3, 8, dtype=torch.float64).index_add(1, sources, model[2].weight.detach())
    torch.testing.assert_close(total, old[2].weight.detach())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    rows = model[0].weight.detach()
    assert float((rows[8] - rows[sources[8]]).abs().max()) > 1e-4


def test_noise_beside_another_edit_of_the_same_dimension_keeps_the_function():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.out = nn.Parameter(torch.randn(6, 3, 4)), nn.Linear(12, 2)

        def forward(self, x):
            return self.out(torch.einsum("bi,ihd->bhd", x, self.value).tanh().flatten(1))

    model = Heads().double()
    x = torch.randn(2, 6, dtype=torch.float64)
    axes, before = trace(model, x), model(x).detach()
    one, two = (axis for axis in axes.editable)
    plan = Net2Wider(noise=0.1).propose(View(axes), one, 2)
    Edit(axes).gather(one, plan.gather, plan.start).grow(two, 1).commit()
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"ratio": 0.0}, {"ratio": math.inf}, {"noise": -1.0}])
def test_settings_of_net2wider_are_checked(settings):
    with pytest.raises(ConfigError, match="Net2Wider"):
        Net2Wider(**settings)


def test_hypercloning_gives_whole_multiples_and_says_so():
    model, x = mlp()
    axes = trace(model, x)
    for count, given in ((7, 0), (8, 8), (20, 16)):
        plan = HyperCloning().propose(View(axes), axes["0"], count)
        assert plan.births == given
        assert (plan.note is None) is (count == given)
    assert "8, 16, 24" in (HyperCloning().propose(View(axes), axes["0"], 7).note or "")


def test_hypercloning_sees_that_only_part_of_what_is_normalized_is_copied():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 5)
            self.norm, self.head = nn.LayerNorm(9), nn.Linear(9, 3)

        def forward(self, x):
            return self.head(self.norm(torch.cat([self.left(x), self.right(x)], -1)))

    torch.manual_seed(0)
    model = Joined().double()
    before = model(X).detach()
    plan = grown(model, X, HyperCloning(), "left", 4)
    assert plan.inexact == ("normalized",)
    assert float((model(X) - before).detach().abs().max()) > 1e-3


def test_hypercloning_refuses_tied_embeddings():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    model = Tied()
    axes = trace(model, torch.randint(0, 11, (2, 4)))
    for method in (HyperCloning(), Lemon(), ZeroExtension()):
        assert "both produces and reads" in (method.undefined(axes, axes["embedding"]) or "")


class HalfNorm(nn.Module):
    """RMSNorm written out, as in many language models."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class OffsetNorm(HalfNorm):
    """The scale is one more than the parameter."""

    def forward(self, x):
        return (1 + self.weight) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@pytest.mark.parametrize(
    ("norm", "centred", "eps"),
    [
        (lambda n: nn.LayerNorm(n, eps=1e-4), True, 1e-4),
        (lambda n: nn.LayerNorm(n, bias=False), True, 1e-5),
        (nn.RMSNorm, False, 2.2e-16),
        (HalfNorm, False, 1e-6),
    ],
)
def test_normalizations_are_recognized_by_what_they_compute(norm, centred, eps):
    model = Stream(norm)
    axes = trace(model, X)
    (found,) = norms(axes, axes["stem"])
    assert found.weight == "norm.weight"
    assert found.centred is centred
    assert found.eps == pytest.approx(eps, rel=1e-2, abs=1e-15)


@pytest.mark.parametrize("norm", [OffsetNorm, lambda n: nn.GroupNorm(1, n), nn.BatchNorm1d])
def test_other_normalizations_are_not(norm):
    model = Stream(norm)
    axes = trace(model, X)
    assert not norms(axes, axes["stem"])
    assert Lemon().undefined(axes, axes["stem"]) or not axes["stem"].couplings


@pytest.mark.parametrize("count", [3, 8, 11, 20])
@pytest.mark.parametrize(
    ("norm", "tolerance"), [(nn.LayerNorm, 1e-5), (lambda n: nn.LayerNorm(n, eps=0.0), 1e-12), (nn.RMSNorm, 1e-12)]
)
def test_lemon_is_exact_up_to_epsilon(norm, tolerance, count):
    model = Stream(norm)
    before = model(X).detach()
    plan = grown(model, X, Lemon(), "stem", count)
    drift = float((model(X) - before).detach().abs().max() / before.abs().max())
    assert plan.births == count
    assert bool(plan.inexact) is (tolerance > 1e-12 and count % 8 != 0)
    assert drift < (tolerance if plan.inexact else 1e-12)


@pytest.mark.parametrize("method", [Lemon(), ZeroExtension()])
@pytest.mark.parametrize("norm", [lambda n: nn.LayerNorm(n, eps=0.0), nn.RMSNorm])
def test_what_was_added_beside_the_copies_learns(method, norm):
    model = Stream(norm)
    axes = trace(model, X)
    if method.undefined(axes, axes["stem"]) is not None:
        assert isinstance(method, ZeroExtension)
        return
    grown(model, X, method, "stem", 3)
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer, dim in (("stem", 0), ("down", 0), ("up", 1), ("head", 1)):
        change = getattr(model, layer).weight - getattr(start, layer).weight
        assert bool(change.movedim(dim, 0)[8:].flatten(1).any(1).all()), layer


def test_zero_extension_is_exact_up_to_epsilon_and_says_how_much():
    for norm, exact in ((nn.RMSNorm, True), (HalfNorm, False)):
        model = Stream(norm)
        before = model(X).detach()
        plan = grown(model, X, ZeroExtension(), "stem", 5)
        drift = float((model(X) - before).detach().abs().max() / before.abs().max())
        assert bool(plan.inexact) is not exact
        assert drift < (1e-12 if exact else 1e-5)
        assert not any(tensor[8:].any() for tensor in (model.stem.weight, model.stem.bias, model.down.weight))
    assert "epsilon stays 1e-06" in plan.inexact[0]


def test_zero_extension_is_not_for_layer_norm():
    model = Stream(nn.LayerNorm)
    axes = trace(model, X)
    assert "subtracts its mean" in (ZeroExtension().undefined(axes, axes["stem"]) or "")
    assert "no LayerNorm or RMSNorm" in (ZeroExtension().undefined(axes, axes["up"]) or "")


def test_lemon_wants_units_one_by_one_before_layer_norm():
    class Scaled(Stream):
        def __init__(self):
            super().__init__(nn.LayerNorm)
            self.scale = nn.Parameter(torch.rand(8, dtype=torch.float64))

        def forward(self, x):
            return self.head(self.norm(self.stem(x) * self.scale))

    model = Scaled()
    axes = trace(model, X)
    assert "otherwise than one by one" in (Lemon().undefined(axes, axes["stem"]) or "")
