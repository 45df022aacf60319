"""Growth of what is multiplied by another activation, as queries are by keys: exact, and newborns learn."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import meristem
from meristem.axes import AxisMap, Coupling, units_along
from meristem.edit import Edit, Gather
from meristem.grow import Candidates, Fresh, GradMaxOpt, Method, Random, ZeroFanOut
from meristem.signals import View

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Layers, and what is made of them."""

    def __init__(self, forward: Forward, layers: dict[str, nn.Module | nn.Parameter]) -> None:
        super().__init__()
        self.run = forward
        self.temperature, self.number = 0.35, 2
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def separate(keys: int = 8, **more: nn.Module | nn.Parameter) -> dict[str, nn.Module | nn.Parameter]:
    found: dict[str, nn.Module | nn.Parameter] = {"q": nn.Linear(6, 8), "k": nn.Linear(6, keys)}
    return found | {"v": nn.Linear(6, keys), "o": nn.Linear(8, 6)} | more


def heads(x: Tensor, number: int = 2) -> Tensor:
    return x.unflatten(-1, (number, -1)).transpose(1, 2)


def joined(m: Net, y: Tensor) -> Tensor:
    return m.o(y.transpose(1, 2).flatten(2))


def attending(attention: Callable[[Net, Tensor, Tensor, Tensor], Tensor]) -> Forward:
    """Of three layers."""
    return lambda m, x: joined(m, attention(m, heads(m.q(x)), heads(m.k(x)), heads(m.v(x))))


def by(scores: Callable[[Tensor, Tensor], Tensor]) -> Forward:
    return attending(lambda m, q, k, v: F.softmax(scores(q, k), -1) @ v)


def dot(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2)


def fused(m: Net, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).reshape(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return joined(m, F.scaled_dot_product_attention(q, k, v))


def chunked(m: Net, x: Tensor) -> Tensor:
    q, k, v = map(heads, m.qkv(x).chunk(3, -1))
    return joined(m, F.softmax(dot(q, k) / q.shape[-1] ** 0.5, -1) @ v)


def batched(m: Net, x: Tensor) -> Tensor:
    q, k, v = (heads(layer(x)).reshape(6, 5, -1) for layer in (m.q, m.k, m.v))
    scores = torch.baddbmm(torch.zeros(6, 5, 5, dtype=x.dtype), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return joined(m, (F.softmax(scores, -1) @ v).unflatten(0, (3, 2)))


def convolved(m: Net, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    return m.o(v @ F.softmax(k.transpose(1, 2) @ q, 1))


def grouped(m: Net, x: Tensor) -> Tensor:
    q, k, v = heads(m.q(x), 4), heads(m.k(x)), heads(m.v(x))
    return joined(m, F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))


def rotated(x: Tensor) -> Tensor:
    """The first two entries of a head by position."""
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    a, b, rest = x[..., :1], x[..., 1:2], x[..., 2:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)


def relative(m: Net, x: Tensor) -> Tensor:
    """Two products over one axis (Transformer-XL)."""
    q, v = heads(m.q(x)), heads(m.v(x))
    scores = dot(heads(m.q(x) + m.b), heads(m.k(x))) + dot(q, heads(m.r(x)))
    return joined(m, F.softmax(scores / q.shape[-1] ** 0.5, -1) @ v)


def multi_head(bias: bool) -> Net:
    layers: dict[str, nn.Module | nn.Parameter] = {
        "stem": nn.Linear(6, 8), "attention": nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=bias),
        "o": nn.Linear(8, 6),
    }  # fmt: skip
    return Net(lambda m, x: m.o(m.attention(*[m.stem(x)] * 3, need_weights=bias)[0]), layers)


def frozen() -> Net:
    net = EXACT["default scale"]()
    net.k.requires_grad_(False)
    return net


sdpa = F.scaled_dot_product_attention
EXACT: dict[str, Callable[[], Net]] = {
    "default scale": lambda: Net(attending(lambda m, q, k, v: sdpa(q, k, v)), separate()),
    "without biases": lambda: Net(
        attending(lambda m, q, k, v: sdpa(q, k, v)),
        {**separate(), "q": nn.Linear(6, 8, bias=False), "k": nn.Linear(6, 8, bias=False)},
    ),
    "given scale": lambda: Net(attending(lambda m, q, k, v: sdpa(q, k, v, scale=0.5)), separate()),
    "computed scale": lambda: Net(attending(lambda m, q, k, v: sdpa(q, k, v, scale=q.shape[-1] ** -0.5)), separate()),
    "no scale": lambda: Net(by(dot), separate()),
    "fixed": lambda: Net(by(lambda q, k: dot(q, k) * 0.5), separate()),
    "attribute": lambda: Net(attending(lambda m, q, k, v: F.softmax(dot(q * m.temperature, k), -1) @ v), separate()),
    "code": lambda: Net(by(lambda q, k: dot(q, k) / q.shape[-1] ** 0.5), separate()),
    "on both": lambda: Net(by(lambda q, k: dot(q * q.shape[-1] ** -0.25, k / k.shape[-1] ** 0.25)), separate()),
    "no root": lambda: Net(by(lambda q, k: dot(q, k).div(q.shape[-1])), separate()),
    "root of a tensor": lambda: Net(
        by(lambda q, k: dot(q, k) / torch.sqrt(torch.tensor(q.shape[-1], dtype=q.dtype))), separate()
    ),
    "in place": lambda: Net(by(lambda q, k: dot(q, k).div_(q.shape[-1] ** 0.5)), separate()),
    "one matrix": lambda: Net(fused, {"qkv": nn.Linear(6, 24), "o": nn.Linear(8, 6)}),
    "one matrix, chunked": lambda: Net(chunked, {"qkv": nn.Linear(6, 24), "o": nn.Linear(8, 6)}),
    "baddbmm": lambda: Net(batched, separate()),
    "einsum": lambda: Net(by(lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k)), separate()),
    "convolutions": lambda: Net(
        convolved, {name: nn.Conv1d(n, 8, 1) for name, n in (("q", 5), ("k", 5), ("v", 5))} | {"o": nn.Conv1d(8, 6, 1)}
    ),
    "grouped queries": lambda: Net(grouped, separate(4, q=nn.Linear(6, 16), k=nn.Linear(6, 8), v=nn.Linear(6, 8),
                                                     o=nn.Linear(16, 6))),
    "rotated in part": lambda: Net(attending(lambda m, q, k, v: sdpa(rotated(q), rotated(k), v)), separate()),
    "two products": lambda: Net(relative, separate(r=nn.Linear(6, 8), b=nn.Parameter(torch.randn(8)))),
    "keys used elsewhere": lambda: Net(
        lambda m, x: joined(m, sdpa(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))) + m.p(m.k(x)),
        separate(p=nn.Linear(8, 6)),
    ),
    "keys of a sigmoid": lambda: Net(attending(lambda m, q, k, v: sdpa(q, k.sigmoid(), v)), separate()),
    "keys of two layers": lambda: Net(
        lambda m, x: joined(m, sdpa(heads(m.q(x)), heads(m.k(x) + m.r(x).neg()), heads(m.v(x)))),
        separate(r=nn.Linear(6, 8)),
    ),
    "learned keys": lambda: Net(
        lambda m, x: joined(m, sdpa(heads(m.q(x)), heads(torch.cat([m.m.expand(3, -1, -1), m.k(x)], 1)),
                                    heads(torch.cat([m.v(x)[:, :2], m.v(x)], 1)))),
        separate(m=nn.Parameter(torch.randn(1, 2, 8))),
    ),
    "normalized keys": lambda: Net(
        attending(lambda m, q, k, v: sdpa(q, k, v)),
        separate(k=nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))),
    ),
    "multi-head": lambda: multi_head(False),
    "multi-head with more": lambda: multi_head(True),
    "frozen keys": frozen,
}  # fmt: skip
INEXACT: dict[str, tuple[Callable[[], Net], set[str]]] = {
    "keys are queries": (
        lambda: Net(attending(lambda m, q, k, v: sdpa(q, q, v)), separate()), {"bilinear", "scaled"}
    ),
    "normalized": (
        lambda: Net(attending(lambda m, q, k, v: sdpa(q, k, v)), separate(
            q=nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
            k=nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
        )), {"bilinear", "scaled"}
    ),
    "behind ReLU, whose gradient at 0 is 0": (
        lambda: Net(attending(lambda m, q, k, v: sdpa(q.relu(), k.relu(), v)), separate()), {"bilinear", "scaled"}
    ),
    "features that are not 0 at 0": (
        lambda: Net(lambda m, x: m.o((F.elu(m.q(x)) + 1) @ ((F.elu(m.k(x)) + 1).transpose(1, 2) @ m.v(x))), separate()),
        {"bilinear"},
    ),
    "of third order": (lambda: Net(lambda m, x: m.o(m.q(x) @ (m.q(x).mT @ m.q(x))), separate()), {"bilinear"}),
    "more is scaled than the product": (
        lambda: Net(by(lambda q, k: (dot(q, k) + torch.eye(5, dtype=q.dtype)) / q.shape[-1] ** 0.5), separate()),
        {"scaled"},
    ),
    "scaled in one of two uses": (
        lambda: Net(by(lambda q, k: F.softmax(dot(q, k), -1) + dot(q, k) / q.shape[-1]), separate()), {"scaled"}
    ),
    "the size is added": (lambda: Net(by(lambda q, k: dot(q, k).tanh() + q.shape[-1] * dot(q, k)), separate()),
                          {"scaled"}),
}  # fmt: skip
"""Nets with what stays of the couplings."""
METHODS: tuple[Method, ...] = (ZeroFanOut(), Fresh(), Random(fan_out=0.0), Candidates(factor=2), GradMaxOpt(steps=3))


def made(build: Callable[[], Net]) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return build().double(), torch.randn(3, 5, 6, dtype=torch.float64)


def multiplied(axes: AxisMap) -> str:
    (found,) = [axis.name for axis in axes.editable if Coupling.BILINEAR in axis.couplings]
    return found


def view_of(net: Net, axes: AxisMap, x: Tensor) -> View:
    return View(axes, closure=lambda: net(x).pow(3).sum(), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("name", EXACT)
def test_the_function_is_preserved_and_newborns_learn_both_sides_in_two_steps(name, method, training):
    net, x = made(EXACT[name])
    net.train(training)
    axes = meristem.trace(net, x)
    axis = axes[multiplied(axes)]
    assert method.refused(axes, axis) is None
    assert axis.counterpart is not None
    plan = method.propose(view_of(net, axes, x), axis, 3)
    assert plan.births == 3
    assert not plan.inexact
    before = net(x).detach()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    after = Edit(axes, optimizer).gather(axis.name, plan.gather, plan.start).commit().axes
    assert (net(x) - before).abs().max() < 1e-12
    answers, moved = set(axis.counterpart.names), []
    for _ in range(2):
        optimizer.zero_grad()
        net(x).pow(3).sum().backward()
        moved.append(largest(net, after, axis.index, axis.size))
        optimizer.step()
    first = {name for name, gradient in moved[0].items() if gradient > 1e-9}
    assert first & answers
    trained = {name for name in moved[1] if net.get_parameter(name).requires_grad and "original" not in name}
    assert {name for name in trained if moved[1][name] > 1e-12} == trained


def largest(net: Net, axes: AxisMap, axis: int, before: int) -> dict[str, float]:
    """By what weight, the largest gradient of a newborn's fan-in."""
    found: dict[str, float] = {}
    for place in axes.places[axis]:
        gradient = None if place.layout.buffer else net.get_parameter(place.layout.name).grad
        if gradient is not None and any(role.value == "produces" for role in place.roles):
            units = units_along(place.layout.dims[place.dim], axis, axes.sizes)
            found[place.layout.name] = float(gradient.movedim(place.dim, 0)[units >= before].abs().max())
    return found


@pytest.mark.parametrize("name", INEXACT)
def test_what_cannot_be_made_up_for_is_said(name):
    build, reasons = INEXACT[name]
    net, x = made(build)
    axes = meristem.trace(net, x)
    axis = axes[multiplied(axes)]
    plan = ZeroFanOut().propose(view_of(net, axes, x), axis, 3)
    assert set(plan.inexact) == reasons
    before = net(x).detach()
    Edit(axes).gather(axis.name, plan.gather, plan.start).commit()
    assert (net(x) - before).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["default scale", "one matrix", "rotated in part", "multi-head"])
def test_gradients_and_state_of_incumbents_are_those_of_the_grown_net(name):
    """Where keys are multiplied by c, their gradients and first moments are divided by c, second moments by its
    square."""
    net, x = made(EXACT[name])
    axes = meristem.trace(net, x)
    optimizer = torch.optim.Adam(net.parameters(), 0.0)
    net(x).pow(3).sum().backward()
    optimizer.step()
    plan = ZeroFanOut().propose(view_of(net, axes, x), axes[multiplied(axes)], 3)
    after = Edit(axes, optimizer).gather(plan.axis.name, plan.gather, plan.start).commit().axes
    fresh = torch.optim.Adam(net.parameters(), 0.0)
    held = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    fresh.zero_grad()
    net(x).pow(3).sum().backward()
    fresh.step()
    for place in after.places[plan.axis.index]:
        units = units_along(place.layout.dims[place.dim], plan.axis.index, after.sizes)
        old = (units < plan.axis.size).nonzero().flatten()
        parameter = net.get_parameter(place.layout.name)
        others = [units_along(e, plan.axis.index, after.sizes) < plan.axis.size for e in place.layout.dims]
        mine = torch.ones_like(parameter, dtype=torch.bool)
        for dim, kept in enumerate(others):
            mine &= kept.reshape([-1 if d == dim else 1 for d in range(parameter.dim())])
        assert len(old)
        assert torch.allclose(held[place.layout.name][mine], parameter.grad[mine], rtol=1e-9, atol=1e-12)
        for key in ("exp_avg", "exp_avg_sq"):
            one, other = optimizer.state[parameter][key], fresh.state[parameter][key]
            assert torch.allclose(one[mine], other[mine], rtol=1e-9, atol=1e-14), (place.layout.name, key)


@pytest.mark.parametrize("name", ["given scale", "no scale", "einsum", "convolutions"])
def test_grown_and_pruned_again_nothing_has_changed(name):
    """Where nothing is scaled, incumbents stay as they are."""
    net, x = made(EXACT[name])
    axes = meristem.trace(net, x)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    net(x).pow(3).sum().backward()
    optimizer.step()
    tensors = {name: p.detach().clone() for name, p in net.named_parameters()}
    state = {name: copy.deepcopy(optimizer.state[p]) for name, p in net.named_parameters()}
    axis = axes[multiplied(axes)]
    plan = ZeroFanOut().propose(view_of(net, axes, x), axis, 3)
    after = Edit(axes, optimizer).gather(axis.name, plan.gather, plan.start).commit().axes
    Edit(after, optimizer).gather(axis.name, Gather.keep(axis.size + 3, range(axis.size))).commit()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, tensors[name])
        for key, value in state[name].items():
            assert torch.equal(optimizer.state[parameter][key], value)


def test_without_a_method_products_are_left_alone_where_nothing_scales_them():
    """An edit by itself never changes incumbents: it is exact without a scale, and says so if there is one."""
    for name, exact in (("no scale", True), ("default scale", False)):
        net, x = made(EXACT[name])
        edit = Edit(meristem.trace(net, x)).grow(multiplied(meristem.trace(net, x)), 3)
        keys, before = net.k.weight.detach().clone(), net(x).detach()
        preview = edit.preview()
        assert preview.exact == exact
        assert preview.axes[0].inexact == (() if exact else ("scaled",))
        edit.commit()
        assert ((net(x) - before).abs().max() < 1e-12) == exact
        assert torch.equal(net.k.weight.unflatten(0, (2, -1))[:, :4].flatten(0, 1), keys)


def test_heads_and_their_size_grow_in_one_edit():
    net, x = made(lambda: Net(fused_by_code, {"qkv": nn.Linear(6, 24), "o": nn.Linear(8, 6)}))
    axes = meristem.trace(net, x)
    view = view_of(net, axes, x)
    before, edit = net(x).detach(), Edit(axes)
    for axis in axes.editable:
        plan = ZeroFanOut().propose(view, axis, 2)
        assert not plan.inexact
        edit.gather(axis.name, plan.gather, plan.start)
    assert len(axes.editable) == 2
    after = edit.commit().axes
    assert (net(x) - before).abs().max() < 1e-12
    plan = ZeroFanOut().propose(view_of(net, after, x), after[multiplied(after)], 2)
    Edit(after).gather(plan.axis.name, plan.gather, plan.start).commit()
    assert (net(x) - before).abs().max() < 1e-12


def fused_by_code(m: Net, x: Tensor) -> Tensor:
    """As many heads as attributes say."""
    q, k, v = m.qkv(x).reshape(*x.shape[:2], 3, m.number, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return joined(m, F.scaled_dot_product_attention(q, k, v))


def test_gains_of_candidates_are_those_of_the_net_that_comes_out():
    """More candidates are tried than stay, and the size scales gradients."""
    net, x = made(EXACT["default scale"])
    axes = meristem.trace(net, x)
    axis = axes[multiplied(axes)]
    plan = Candidates(factor=4).propose(view_of(net, axes, x), axis, 3)
    after = Edit(axes).gather(axis.name, plan.gather, plan.start).commit().axes
    net(x).pow(3).sum().backward()
    found = torch.zeros(3, dtype=torch.float64)
    for name in ("k.weight", "k.bias", "o.weight"):
        for place in after.places[axis.index]:
            if place.layout.name == name:
                units = units_along(place.layout.dims[place.dim], axis.index, after.sizes)
                gradient = net.get_parameter(name).grad.movedim(place.dim, 0)
                for newborn in range(3):
                    found[newborn] += gradient[units == axis.size + newborn].square().sum()
    assert torch.allclose(found, torch.tensor(plan.gains, dtype=torch.float64), rtol=1e-6)
