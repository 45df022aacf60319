"""Every method on every axis of the zoo's small models: what its plan promises holds."""

import pytest

from meristem.grow import METHODS, HyperCloning, Lemon, Net2Wider, Random, VarianceTransfer
from tests.grow.judge import ZOO, apart, carried_out, fitting, mismatch, moved, planned, traced

PLAIN = ("HyperCloning", "Lemon", "Net2Wider", "NorthWeight", "Paired", "Random", "VarianceTransfer",
         "ZeroExtension", "ZeroFanOut")  # fmt: skip
"""The methods that need no statistics."""
CHOSEN = (
    *(method for method in METHODS if type(method).__name__ in PLAIN),
    HyperCloning(noise=0.1),
    Net2Wider(ratio=3.0),
    Net2Wider(noise=0.1),
    Random(fan_in=0.5, fan_out=0.0),
    Random(fan_in=0.0, fan_out=0.0),
    VarianceTransfer(fan_in=0.5, fan_out=2.0),
)


@pytest.mark.parametrize("method", CHOSEN, ids=repr)
@pytest.mark.parametrize("name", ZOO)
def test_what_a_plan_calls_exact_is(name, method):
    original = traced(name)
    for axis in original.axes.editable:
        if method.undefined(original.axes, axis) is None:
            work = original.copied()
            plan = planned(work, method, axis, fitting(method, axis, 3))
            assert plan.births == fitting(method, axis, 3) or plan.note
            if plan.births and not plan.inexact:
                assert moved(original, carried_out(work, [plan])) < 1e-12, axis


@pytest.mark.parametrize("method", CHOSEN, ids=repr)
@pytest.mark.parametrize("name", ZOO)
def test_exact_axes_grow_in_one_transaction(name, method):
    work = traced(name).copied()
    defined = [axis for axis in work.axes.editable if method.undefined(work.axes, axis) is None]
    plans = [planned(work, method, axis, fitting(method, axis, 5)) for axis in defined]
    plans = [plan for plan in plans if plan.births and not plan.inexact]
    plans = apart(plans, work) if getattr(method, "noise", 0) else plans
    if plans:
        assert moved(traced(name), carried_out(work, plans)) < 1e-12


@pytest.mark.parametrize("method", CHOSEN, ids=repr)
@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_transferred_exactly(name, method):
    """State follows `gradient_factor`: transferred gradients must be the ones that the grown model has."""
    original = traced(name)
    for axis in original.axes.editable:
        if method.undefined(original.axes, axis) is None:
            plan = planned(original, method, axis, fitting(method, axis, 3))
            if plan.births and not plan.inexact and not getattr(method, "noise", 0):
                assert mismatch(original, method, axis, plan.births) < 1e-10, axis


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("residual_mlp", "stem", {"HyperCloning"}),  # LayerNorm
        ("rms_norm", "stem", {"HyperCloning", "Lemon", "ZeroExtension"}),
        ("group_norm", "trunk.0[1]", {"HyperCloning"}),  # the channels within a group
        ("encoder_layer", "stem[0]", {"HyperCloning"}),  # whole heads of a normalized stream
        ("code_sized_attention", "qkv[0]", {*PLAIN} - {"NorthWeight", "Random", "ZeroExtension"}),  # heads
        ("code_sized_attention", "qkv[1]", {"ZeroFanOut"}),  # the size of heads, of queries and keys too
        ("grouped_query", "query[2]", {"ZeroFanOut"}),
        ("multihead_attention", "stem[1]", {"ZeroFanOut"}),
        ("einsum_attention", "value", {*PLAIN} - {"Random", "ZeroExtension"}),  # the size of heads, of values alone
    ],
)
def test_which_methods_are_exact(name, axis, expected):
    axes = traced(name).axes
    found = set()
    for method in CHOSEN[: len(PLAIN)]:
        if method.undefined(axes, axes[axis]) is None:
            plan = planned(traced(name), method, axes[axis], fitting(method, axes[axis], 3))
            found |= {type(method).__name__} if plan.births and not plan.inexact else set()
    assert found == expected


def test_lemon_is_exact_but_for_epsilon_in_one_transaction():
    work = traced("residual_mlp").copied()
    plans = [planned(work, Lemon(), work.axes[name], 17) for name in ("stem", "up")]
    assert [bool(plan.inexact) for plan in plans] == [True, False]
    assert moved(traced("residual_mlp"), carried_out(work, plans)) < 1e-5
