"""Every growth method on every kind of axis: it refuses with a reason, or what its plan claims holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from meristem.axes import Role
from meristem.edit import Explicit
from meristem.errors import EditError
from meristem.grow import METHODS, TINY, require_defined
from meristem.grow.predicted import predicts
from tests.grow.table import EVERY, NETS, SITES, cached, plan_of

FOLLOWING = {"GradMax", "NorthOpt", "NorthPre", "NorthSelect", "SENN", "TINY"}
"""Methods that follow activations from one weight to the next."""
SPLITTING = {"FastSplitting", "Firefly", "Splitting"}
SEVERAL, NORMALIZED = "several channels belong to one unit", "its units are not independent (normalized)"
COUPLED = ("group norm, within", "layer norm stream", "rms norm stream")
REFUSALS: dict[str, dict[str, set[str]]] = {
    "no LayerNorm or RMSNorm over it alone, with a scale of its own, normalizes it": {
        **{net: {"ZeroExtension"} for net in NETS if net not in ("rms norm stream", "layer norm stream", "head size")},
        "group norm, within": {"Lemon", "ZeroExtension"},
    },
    "LayerNorm subtracts its mean, which zeros would move": {"layer norm stream": {"ZeroExtension"}},
    "2 weights add into one activation": {
        f"stream, {kind}": FOLLOWING - {"GradMax"} for kind in ("relu", "tanh")
    },
    "batch normalization has no variance to divide by when the fan-in of newborns is zero": {
        "batch norm": {"GradMax"}, "batch norm, linear": {"GradMax"},
    },
    "the activation function is not 0 at 0, so that newborns with zero fan-in would be seen": {
        "sigmoid": {"GradMax"}, "softplus": {"GradMax"},
    },
    "the activation function is not 0 at 0, so that newborns would add a constant": {
        "sigmoid": {"TINY"}, "softplus": {"TINY"},
    },
    "the activation function is flat at 0, so that newborns would add next to nothing": {"squared relu": {"TINY"}},
    SEVERAL: {
        **dict.fromkeys(("group norm, groups", "heads", "swiglu, chunked", "groups"), FOLLOWING),
        "within groups": FOLLOWING - {"GradMax", "TINY"},
    },
    NORMALIZED: dict.fromkeys(COUPLED, FOLLOWING),
    f"{NORMALIZED}, so that copies alone change the function": dict.fromkeys(COUPLED, SPLITTING),
    "its units are not independent (bilinear, scaled)": {"head size": FOLLOWING},
    "its units are not independent (bilinear, scaled), so that copies alone change the function": {
        "head size": SPLITTING
    },
    "two activations are contracted over it, so there is no fan-out to divide among copies": {
        "head size": {"AKI", "HyperCloning", "Lemon", "Mitosis", "Net2Wider"}
    },
    "two activations are contracted over it, so there is no fan-out to give opposite signs": {
        "head size": {"Paired", "VarianceTransfer"}
    },
    "its units are coupled otherwise than by a normalization: bilinear, scaled": {"head size": {"ZeroExtension"}},
    "value produces it in a way that cannot be followed": {"value size": FOLLOWING},
    "combines it with another activation": {"swiglu": FOLLOWING},
    "mixes positions": {"depthwise": FOLLOWING},
}  # fmt: skip
"""By reason, for every net, which methods refuse its axis; all others must work."""
REFUSED = {(net, method) for nets in REFUSALS.values() for net, methods in nets.items() for method in methods}
PAIRS = [(net, method) for net in NETS for method in EVERY if (net, method) not in REFUSED]

SQUARED = ("Candidates", "GradMax", "GradMaxOpt")
"""Their gains are squared gradients: decreases of the loss per unit of learning rate."""
CURVED = ("FastSplitting", "Splitting")
"""Their gains are second differences."""
SMOOTH = [*(net for net in SITES if "tanh" in net), "heads", "swiglu", "swiglu, chunked"]
"""Nets with curvature everywhere. Values of attention have none: they are read linearly."""
ONE_READING = [net for net in NETS if net.split(",")[0] not in ("shared", "stream", "value size", "concatenated")]
"""Nets in which all readers of the axis are modules, called once, of which none hears another."""


def pairs(chosen: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("net", "method"), list(chosen))


def test_refusals_are_the_expected_ones_and_say_what_would_work() -> None:
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for net in NETS:
        axes, axis = cached(net).axes, cached(net).axis
        for name, method in EVERY.items():
            reason = method.undefined(axes, axis)
            if reason is not None:
                found[next((known for known in REFUSALS if reason.endswith(known)), reason)][net].add(name)
                with pytest.raises(EditError) as caught:
                    require_defined(method, axes, [axis])
                assert reason in str(caught.value)
                assert "ZeroFanOut" in str(caught.value)
    assert {reason: dict(nets) for reason, nets in found.items()} == REFUSALS
    assert set(EVERY) == {type(method).__name__ for method in METHODS}


@pairs(PAIRS)
def test_what_a_plan_claims(net: str, method: str) -> None:
    """Numbers, notes and gains; the function in train and eval mode; gradients go on."""
    c, plan = cached(net), plan_of(net, method)
    asked = c.axis.size if method == "HyperCloning" else 3
    assert 0 <= plan.births <= asked
    assert (plan.births < asked) == (plan.note is not None)
    assert len(plan.gains) in (0, plan.births)
    assert list(plan.gains) == sorted(plan.gains, reverse=True) or method == "TINY"  # its order is by singular value
    assert bool(plan.gains) == (predicts(EVERY[method]) and plan.births > 0)
    if plan.births:
        after = c.grown(plan)
        assert after.axis.size == c.axis.size + plan.births
        for training in (False, True):
            before, now = c.outputs(training), after.outputs(training)
            assert now.isfinite().all()
            assert ((now - before).abs().max() < 1e-10 * before.abs().max()) or plan.inexact


@pairs((net, method) for net, method in PAIRS if method in ("GradMax", "SENN", "TINY"))
def test_gains_asked_for_beforehand_are_those_of_the_plan(net: str, method: str) -> None:
    c = cached(net)
    view = replace(c.view(EVERY[method], 3), closure=None)
    gains = EVERY[method].gains(view, c.axis, 3)
    assert gains is not None
    assert gains.dtype == torch.float64
    plan = EVERY[method].propose(view, c.axis, 3)
    assert list(plan.gains) == pytest.approx(gains[: plan.births].tolist())


@pytest.mark.parametrize("net", [net for net, method in PAIRS if method == "TINY"])
def test_tiny_gains_are_central_differences(net: str) -> None:
    """Along the line from newborns with the opposite fan-out; also for the first newborn alone."""
    c = cached(net)
    method = TINY(amplitude=1e-9)
    plan = method.propose(replace(c.view(method, 2), closure=None), c.axis, 2)
    start = plan.start
    assert isinstance(start, Explicit)
    reading = {(p.layout.name, p.dim) for p in c.axes.places[c.axis.index] if Role.READS in p.roles}
    opposite = replace(start, entries={k: -v if k in reading else v for k, v in start.entries.items()})
    there, back = (float(c.grown(replace(plan, start=s)).loss().detach()) for s in (start, opposite))
    assert (back - there) / 2 == pytest.approx(sum(plan.gains), rel=1e-3)
    assert there < back


@pairs((net, method) for net, method in PAIRS if method in CURVED and net in SMOOTH)
def test_splitting_gains_are_second_differences(net: str, method: str) -> None:
    """Behind ReLU, which has no second derivative, they are those of softplus and a heuristic."""
    c, plan = cached(net), plan_of(net, method)
    assert plan.births
    decrease = float((c.loss() - c.grown(plan).loss()).detach())
    assert decrease == pytest.approx(sum(plan.gains), rel=0.02)


@pytest.mark.parametrize("net", [net for net, method in PAIRS if method == "Firefly" and net in ONE_READING])
def test_firefly_gains_are_central_differences_in_the_gate(net: str) -> None:
    """What the readers give is mixed from that without newborns and that with them."""
    c, plan = cached(net).copied(), plan_of(net, "Firefly")
    after, given = c.grown(plan), {}
    readers = {p.layout.name.rpartition(".")[0] for p in c.axes.places[c.axis.index] if Role.READS in p.roles}
    for key, model in (("before", c.model), ("after", after.model)):
        handles = [model.get_submodule(r).register_forward_hook(lambda m, a, out, k=(key, r): given.update({k: out}))
                   for r in readers]  # fmt: skip
        model(*c.args)
        for handle in handles:
            handle.remove()

    def at(gate: float) -> float:
        change = {r: gate * (given["after", r] - given["before", r]) for r in readers}
        handles = [c.model.get_submodule(r).register_forward_hook(lambda m, a, out, d=change[r]: out + d)
                   for r in readers]  # fmt: skip
        loss = float(c.loss().detach())
        for handle in handles:
            handle.remove()
        return loss

    assert plan.births
    assert (at(-1e-4) - at(1e-4)) / 2e-4 == pytest.approx(sum(plan.gains), rel=1e-4)


@pairs((net, method) for net, method in PAIRS if method in SQUARED)
def test_squared_gradients_are_the_decrease_per_unit_of_learning_rate(net: str, method: str) -> None:
    """One step of gradient descent of newborns alone, and one back."""
    c, plan = cached(net), plan_of(net, method)
    after = c.grown(plan)
    after.loss().backward()
    rate, losses = 1e-8, []
    for sign in (-1, 1):
        stepped = after.copied()
        with torch.no_grad():
            for name, p in stepped.model.named_parameters():
                gradient = after.model.get_parameter(name).grad
                if gradient is not None:
                    p += sign * rate * gradient * stepped.born(plan, name)
        losses.append(float(stepped.loss().detach()))
    coupled = bool(c.axis.couplings)  # then more of a newborn than what is zero at birth has a gradient
    tolerance = 0.25 if coupled else 1e-3
    assert (losses[1] - losses[0]) / 2 / rate == pytest.approx(sum(plan.gains), rel=tolerance, abs=1e-7)
