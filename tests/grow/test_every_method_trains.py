"""Every growth method on every net while training goes on: optimizers, ReLU, BatchNorm, bad data, low precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import isfinite
from statistics import mean

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from meristem.axes import Role, units_along
from meristem.grow import SWE, FastSplitting, Firefly, GradMaxOpt, Growth, HyperCloning, Method, Splitting
from meristem.signals import View
from meristem.signals.direct import Recording
from tests.edit.snapshot import bits_equal
from tests.grow.table import EVERY, NETS, Case, cached, plan_of
from tests.grow.test_every_method import PAIRS, pairs

ZERO_FAN_OUT = ("Candidates", "GradMaxOpt", "NorthOpt", "NorthPre", "NorthSelect", "NorthWeight", "SENN",
                "ZeroFanOut")  # fmt: skip
"""Methods whose newborns nothing reads at birth."""
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.02, momentum=0.9),
    "adamw": lambda p: AdamW(p, lr=0.005, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.001, momentum=0.5),
}
COPIES = ("AKI", "FastSplitting", "HyperCloning", "Lemon", "Net2Wider", "Splitting")
"""Copies share the gradient of their fan-in, which for plain gradient descent is a smaller learning rate."""
every_optimizer = pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
QUICK: Mapping[str, Method] = {
    **EVERY, "FastSplitting": FastSplitting(steps=1), "Firefly": Firefly(steps=1, passes=1, fresh=4),
    "GradMaxOpt": GradMaxOpt(steps=2), "Splitting": Splitting(iterations=2), "SWE": SWE(steps=1),
}  # fmt: skip
"""With still fewer steps, for tests that make all plans anew."""
DEFINED = {net: [method for other, method in PAIRS if other == net] for net in NETS}
"""By net the methods that do not refuse its axis."""


def train(c: Case, optimizer: Optimizer, steps: int) -> float:
    """Ordinary training; the loss after it."""
    for _ in range(steps):
        optimizer.zero_grad()
        c.loss().backward()
        optimizer.step()
    optimizer.zero_grad()
    return float(c.loss().detach())


def incumbent(c: Case, plan: Growth, name: str, tensor: Tensor) -> Tensor:
    """The entries of a tensor shaped as a parameter that do not belong to newborns, in its shape before the plan."""
    born = c.born(plan, name)
    for dim in range(tensor.dim()):
        others = [d for d in range(tensor.dim()) if d != dim]
        kept = (~born.all(dim=others) if others else ~born).nonzero().flatten()
        tensor = tensor.index_select(dim, kept)
    return tensor


def largest(c: Case) -> float:
    return max(float(p.detach().abs().max()) for p in c.model.parameters())


@every_optimizer
@pairs((net, method) for net, method in PAIRS if method in ZERO_FAN_OUT and not cached(net).axis.couplings)
def test_incumbents_move_on_as_if_nobody_had_been_born(net: str, method: str, optimizer_name: str) -> None:
    """Newborns without fan-out leave the first update of everything else, and all optimizer state, as it was."""
    plan = plan_of(net, method)
    if not plan.births:
        assert plan.note
        return
    alone = cached(net).copied()
    optimizer = OPTIMIZERS[optimizer_name](alone.model.parameters())
    train(alone, optimizer, 2)
    grown = alone.copied()
    other = OPTIMIZERS[optimizer_name](grown.model.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    grown = grown.grow(plan, other)
    names = dict(grown.model.named_parameters())
    for name, p in alone.model.named_parameters():
        old = {**optimizer.state[p], "parameter": p.detach()}
        new = {**other.state[names[name]], "parameter": names[name].detach()}
        assert old.keys() == new.keys()
        for key, tensor in new.items():
            if tensor.shape == names[name].shape:
                assert bits_equal(incumbent(grown, plan, name, tensor), old[key]), (name, key)
    train(alone, optimizer, 1)
    train(grown, other, 1)
    for name, p in alone.model.named_parameters():
        left = incumbent(grown, plan, name, names[name].detach())
        torch.testing.assert_close(left, p.detach(), rtol=1e-9, atol=1e-9)


ASLEEP = pytest.mark.xfail(reason="behind RMSNorm and then ReLU, without a norm bias, zeros stay zeros for good")


def still(c: Case, before: Mapping[str, Tensor]) -> dict[int, set[tuple[str, int]]]:
    """By unit the dimensions of weights, producing or reading, in which none of its entries has changed."""
    found: dict[int, set[tuple[str, int]]] = {unit: set() for unit in range(c.axis.size)}
    for place in c.axes.places[c.axis.index]:
        name = place.layout.name
        if not place.layout.buffer and place.roles & {Role.PRODUCES, Role.READS}:
            changed = (c.model.get_parameter(name).detach() != before[name]).movedim(place.dim, 0)
            units = units_along(place.layout.dims[place.dim], c.axis.index, c.axes.sizes)
            for unit in range(c.axis.size):
                if not bool(changed[units == unit].any()):
                    found[unit].add((name, place.dim))
    return found


@pytest.mark.parametrize(
    ("net", "method"),
    [
        pytest.param(
            net, method, marks=ASLEEP if net == "rms norm stream" and method in ("Lemon", "ZeroExtension") else ()
        )
        for net, method in PAIRS
        if "tanh" not in net
    ],
)
def test_newborns_behind_relu_learn_within_two_steps(net: str, method: str) -> None:
    """Also where they start at exactly zero, where ReLU has no derivative. Every newborn, on every side; but for
    copies of units that do not learn themselves. On more samples than the plan was made from: of a dozen, ReLU may shut
    out all that a random newborn sees."""
    plan = plan_of(net, method)
    if not plan.births:
        assert plan.note
        return
    c = more_samples(cached(net), 96).grown(plan)
    before = {name: p.detach().clone() for name, p in c.model.named_parameters()}
    train(c, SGD(c.model.parameters(), lr=1e-3), 2)
    asleep = still(c, before)
    for unit, (source, born) in enumerate(zip(plan.gather.sources, plan.gather.newborn, strict=True)):
        learns = asleep[unit] <= (asleep[source] if source >= 0 else set())
        assert not born or learns, (unit, asleep[unit])


def more_samples(c: Case, count: int, seed: int = 0) -> Case:
    """A copy with other data, normal ones."""
    c = c.copied()
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(count, *like.shape[1:], generator=generator, dtype=torch.float64).to(like.dtype)

    return replace(c, args=tuple(drawn(a) for a in c.args), target=drawn(c.target))


SEEDS = 3
NORMED = [net for net in NETS if any(isinstance(m, BatchNorm) for m in cached(net).model.modules())]
DAMAGE = {"Random": 1.01, **dict.fromkeys(COPIES, 1.005)}
"""By how much the loss ten steps after growth may be above that of the net that never grew: the mean of three seeds of
their ratio; 1.001 for others. Measured with SGD over twelve seeds on "batch norm, linear", "groups", "within groups":
mean at most 1.0022 and deviation from seed to seed at most 0.0063 for Net2Wider and AKI (0.0036 of a mean of three; the
worst of four such means is 1.0041); 1.0042 and 0.0111 for Random (1.0086); 1.0004 and 0.0055 for Mitosis, Paired and
ZeroFanOut (1.0007). Of the other methods and nets only the three seeds of the test are known."""


@pytest.mark.parametrize(
    ("net", "optimizer_name"),
    [
        *((net, "sgd") for net in NORMED),
        *((net, "adamw") for net in ("batch norm, linear", "batch norm", "flattened zoo")),
    ],
)
def test_no_permanent_damage_behind_batch_norm(net: str, optimizer_name: str) -> None:
    """Ten steps after growth, in train mode, the loss is not above that of the net that never grew."""
    ratios: dict[str, list[float]] = {method: [] for method in DEFINED[net]}
    for seed in range(SEEDS):
        alone = more_samples(cached(net), 32, seed)
        torch.manual_seed(seed)
        for module in alone.model.modules():
            getattr(module, "reset_parameters", lambda: None)()
        optimizer = OPTIMIZERS[optimizer_name](alone.model.parameters())
        train(alone, optimizer, 5)

        def ten_steps(plan: Growth | None, c: Case = alone, before: Optimizer = optimizer) -> float:
            c = c.copied()
            new = OPTIMIZERS[optimizer_name](c.model.parameters())
            new.load_state_dict(copy.deepcopy(before.state_dict()))
            return train(c if plan is None else c.grow(plan, new), new, 10)

        reached = ten_steps(None)
        for method, found in ratios.items():
            plan = alone.planned(QUICK[method], 3)
            found.append(ten_steps(plan if plan.births else None) / reached)
    found = {method: mean(several) for method, several in ratios.items()}
    assert not {method: ratio for method, ratio in found.items() if not ratio <= DAMAGE.get(method, 1.001)}


CONDITIONS = ("one sample", "constant", "twins", "float16", "bfloat16")
HALF = {", relu": ("one sample", "twins", "bfloat16"), ", tanh": ("constant", "twins", "float16")}
"""Of nets that there are behind both activation functions, each gets some of the conditions."""
BAD = [
    (net, condition)
    for net in NETS
    for condition in next((some for kind, some in HALF.items() if net.endswith(kind)), CONDITIONS)
]


def badly(condition: str, net: str) -> Case:
    """A copy of a net with data that are hard to learn from, or in low precision."""
    c = cached(net).copied()
    if condition == "one sample":
        return replace(c, args=tuple(a[:1] for a in c.args), target=c.target[:1])
    if condition == "constant":
        return replace(c, args=tuple(torch.ones_like(a) for a in c.args))
    if condition == "twins":
        return replace(c, args=tuple(twins(twins(a, 1), a.dim() - 1) for a in c.args))
    dtype = getattr(torch, condition)
    c.model.to(dtype)
    examples = tuple((tuple(a.to(dtype) for a in args), *rest) for args, *rest in c.axes.examples)
    axes = replace(c.axes, examples=examples)
    return replace(c, args=tuple(a.to(dtype) for a in c.args), target=c.target.to(dtype), axes=axes)


def twins(x: Tensor, dim: int) -> Tensor:
    """The second half along a dimension is the first one again: what depends on it is of low rank."""
    half, rest = x.shape[dim] // 2, x.shape[dim] % 2
    first = x.narrow(dim, 0, half)
    return torch.cat([first, first, x.narrow(dim, 2 * half, rest)], dim)


@pytest.mark.parametrize(("net", "condition"), BAD)
def test_bad_data_and_low_precision_do_no_harm(net: str, condition: str) -> None:
    """With twins among the inputs second moments are singular, and so many newborns are asked for that no method that
    looks for directions has as many."""
    c = badly(condition, net)
    try:
        before = predicted(c).detach()
    except ValueError:
        assert (condition, net) == ("one sample", "batch norm, linear")  # which has no variance
        return
    count = 41 if condition == "twins" else 3
    found = {method: list(harm(c, before, method, count)) for method in DEFINED[net]}
    assert not {method: problems for method, problems in found.items() if problems}


def predicted(c: Case) -> Tensor:
    return c.model(*c.args)


def view(c: Case, method: Method, count: int) -> View:
    """As `Case.view`, of a net whose gradients and running statistics may change."""
    needed = method.needs(c.axes, c.axis, count)
    recorder = Recording(c.axes, needed)
    recorder.closing()
    if needed:
        c.loss().backward()
        c.model.zero_grad()
    generator = torch.Generator().manual_seed(3)
    return View(c.axes, signals=recorder.finish(), closure=c.loss, generator=generator)


def harm(c: Case, before: Tensor, name: str, count: int) -> Iterator[str]:
    """What is wrong with newborns of a method."""
    method = QUICK[name]
    asked = c.axis.size if isinstance(method, HyperCloning) else count
    plan = method.propose(view(c, method, asked), c.axis, asked)
    if plan.births < asked and f"{c.axis.name}: {plan.births} of {asked}" not in str(plan.note):
        yield f"{plan.births} of {asked}, and its note is {plan.note}"
    if not all(isfinite(gain) for gain in plan.gains):
        yield f"gains {plan.gains}"
    if not plan.births:
        return
    grown = c.grown(plan)
    kinds = {(p.dtype, bool(p.isfinite().all())) for p in grown.model.parameters()}
    if kinds != {(before.dtype, True)}:
        yield f"dtypes, and whether they are finite: {kinds}"
    wider = len(plan.gather) / c.axis.size if name == "VarianceTransfer" else 1.0  # its weights grow with the width
    if largest(grown) > LARGEST * wider**0.5 * largest(c):
        yield f"weights {largest(grown) / largest(c):.3g} times as large"
    now = predicted(grown)
    error = float((now - before).detach().abs().max() / before.abs().max())
    if not plan.inexact and not error <= PRECISE * torch.finfo(before.dtype).eps:
        yield f"outputs off by {error:.3g}, and no reason why"
    old, new = float((before - c.target).square().mean()), (now - c.target).square().mean()
    most = 2 + plan.births / c.axis.size if name == "Random" else 1.1  # it adds as many random numbers
    if not float(new.detach()) <= most * old:
        yield f"loss {old:.4g} -> {float(new.detach()):.4g} at birth"
    new.backward()
    SGD(grown.model.parameters(), lr=1e-3).step()
    with torch.no_grad():
        later = float(grown.loss())
    if not later <= 1.01 * float(new.detach()):
        yield f"loss {float(new.detach()):.4g} -> {later:.4g} by one step"


LARGEST = 4.0
"""By how much the largest weight may grow."""
PRECISE = 16.0
"""In units of rounding: by how much outputs may change where a plan says that they do not."""
