"""Parameters from which a model computes its weights: a zero in them is not a zero of the model, so they stay dense."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import meristem
from meristem.axes import AxisMap
from meristem.errors import CheckpointError, ConfigError, TraceError
from meristem.mask import METHODS, SNIP, Fixed, GraSP, Sparse, Static
from meristem.mask.transformed import transformed
from tests.mask.models import convnet, mlp

IN, OUT = 8, 6


class Centred(nn.Linear):
    def forward(self, input):
        return functional.linear(input, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Standardized(nn.Conv2d):
    def forward(self, input):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
        return functional.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Positive(nn.Linear):
    def forward(self, input):
        return functional.linear(input, functional.softplus(self.weight), self.bias)


class Inverse(nn.Module):
    """Zeros have no inverse."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Parameter(torch.randn(IN, IN))

    def forward(self, x):
        return functional.linear(x, torch.linalg.inv(self.whole))


class Scaled(nn.Linear):
    """An equalized learning rate: zeros are zeros."""

    def forward(self, input):
        return functional.linear(input, self.weight.to(torch.float64) * 0.3, self.bias)


class Cut(nn.Module):
    """Uses its parameter in parts, turned, padded and copied."""

    def __init__(self):
        super().__init__()
        self.both = nn.Parameter(torch.randn(2, OUT, IN))

    def forward(self, x):
        first, second = self.both.unbind()
        stacked = torch.cat([first[:2], second.flip(0)[2:].clone()])
        return functional.linear(x, stacked) + x @ functional.pad(first.T, (1, 0))[:, 1:]


class Outside(nn.Module):
    """Computes a weight in the forward of another module."""

    def __init__(self):
        super().__init__()
        self.inner, self.plain = nn.Linear(IN, OUT, bias=False), nn.Linear(OUT, 3)

    def forward(self, x):
        return self.plain(functional.linear(x, functional.normalize(self.inner.weight, dim=1)))


def wrapped(wrap):
    def build():
        torch.manual_seed(0)
        with pytest.warns(FutureWarning) if wrap is nn.utils.weight_norm else torch.no_grad():
            layer = wrap(nn.Linear(IN, OUT))
        return nn.Sequential(layer, nn.ReLU(), nn.Linear(OUT, 3)).double()

    return build


def built(kind, *args):
    return lambda: nn.Sequential(kind(*args), nn.ReLU(), nn.Linear(OUT, 3)).double()


COMPUTED = {
    "weight_norm": (wrapped(parametrizations.weight_norm), "0.parametrizations.weight.original1", "parametrization"),
    "orthogonal": (wrapped(parametrizations.orthogonal), "0.parametrizations.weight.original", "parametrization"),
    "spectral_norm": (wrapped(parametrizations.spectral_norm), "0.parametrizations.weight.original", "parametrization"),
    "old weight_norm": (wrapped(nn.utils.weight_norm), "0.weight_v", "hook"),
    "old spectral_norm": (wrapped(nn.utils.spectral_norm), "0.weight_orig", "hook"),
    "pruned": (wrapped(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), "0.weight_orig", "hook"),
    "centred": (built(Centred, IN, OUT), "0.weight", "forward"),
    "positive": (built(Positive, IN, OUT), "0.weight", "forward"),
}


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize("case", COMPUTED)
def test_they_stay_dense_and_it_is_said(case, caplog):
    build, name, reason = COMPUTED[case]
    net, x = build(), torch.randn(4, IN, dtype=torch.float64)
    before, weight = {n: p.detach().clone() for n, p in net.named_parameters()}, net.get_parameter(name)
    with caplog.at_level(logging.WARNING, "meristem.mask"):
        sparsity = Sparse(net, sgd(net), Static(density=0.1))
    assert list(sparsity.masks) == ["2.weight"]
    assert reason in sparsity.left[name]
    assert name in caplog.text
    assert torch.equal(weight, before[name])
    assert net(x).isfinite().all()


@pytest.mark.parametrize("case", COMPUTED)
def test_asked_for_by_name_they_are_refused(case):
    build, name, reason = COMPUTED[case]
    net = build()
    for chosen in (name, ["2.weight", name], "0.*", lambda found, _: found in ("2.weight", name)):
        with pytest.raises(ConfigError, match=rf"{name} cannot be masked: .*{reason}"):
            Sparse(net, sgd(net), Static(density=0.1), parameters=chosen)
    assert list(Sparse(net, sgd(net), Static(density=0.1), parameters="*").masks) == ["2.weight"]
    assert not Sparse(net, sgd(net), Static(density=0.1), parameters="2.*").left


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_leaves_them_out(method):
    """A row of `weight_v` that had no weight was 0 / 0 as soon as the masks were there."""
    net, x = COMPUTED["weight_norm"][0](), torch.randn(4, IN, dtype=torch.float64)
    wants = isinstance(method, (SNIP, GraSP)) or method.requires_closure
    sparsity = Sparse(net, sgd(net), method, closure=(lambda: net(x).square().mean()) if wants else None)
    assert list(sparsity.masks) == ["2.weight"]
    assert net(x).isfinite().all()


def test_a_model_of_nothing_else_is_refused():
    net = nn.Sequential(parametrizations.orthogonal(nn.Linear(IN, IN)))
    with pytest.raises(ConfigError, match=r"0.parametrizations.weight.original cannot be masked"):
        Sparse(net, sgd(net), Static(density=0.2))


@pytest.mark.parametrize(
    "build", [mlp, convnet, built(Scaled, IN, OUT), built(Cut)], ids=["mlp", "conv", "scaled", "cut"]
)
def test_weights_whose_zeros_are_zeros_are_masked(build):
    """Also what is cut, copied, turned, cast or multiplied by a number on its way."""
    net = build()
    x = torch.randn(4, IN, dtype=torch.float64)
    example = x if build not in (mlp, convnet) else None
    names = [name for name, parameter in net.named_parameters() if parameter.dim() > 1]
    assert not transformed(net, names, example)


def test_convolutions_are_tried_without_an_example():
    net = nn.Sequential(Standardized(4, 6, 3, groups=2), nn.Conv2d(6, 4, 3))
    assert list(transformed(net, ["0.weight", "1.weight"])) == ["0.weight"]
    assert list(transformed(Inverse(), ["whole"])) == ["whole"]


def test_an_example_shows_what_other_code_computes():
    net, x = Outside(), torch.randn(4, IN)
    assert list(Sparse(net, sgd(net), Static(density=0.5)).masks) == ["inner.weight", "plain.weight"]
    for example in (x, {"x": x}, meristem.trace(net, x)):
        net = net if isinstance(example, AxisMap) else Outside()
        optimizer = sgd(net)
        sparsity = Sparse(net, optimizer, Static(density=0.5), example=example)
        assert list(sparsity.masks) == ["plain.weight"]
        assert "forward" in sparsity.left["inner.weight"]
    with pytest.raises(TraceError, match="cannot be run on the example"):
        Sparse(net, sgd(net), Static(density=0.5), example=x[:, 1:])


def test_looking_leaves_no_trace():
    """Buffers that a training forward would move, modes, and random numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(IN, OUT)), nn.BatchNorm1d(OUT), Centred(OUT, 3))
    net[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    state = torch.get_rng_state()
    assert transformed(net, ["2.weight"], torch.randn(4, IN, generator=torch.Generator().manual_seed(1))).keys() == {
        "2.weight"
    }
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_saved_state_with_masks_of_them_is_refused():
    plain = built(nn.Linear, IN, OUT)()
    saved = Sparse(plain, sgd(plain), Fixed()).state_dict()
    net = built(Centred, IN, OUT)()
    with pytest.raises(CheckpointError, match=r"masks of 0.weight, which stays dense"):
        Sparse(net, sgd(net), Fixed(), state=saved)
