"""Where weights are computed from parameters, a plan says what copies and pairs do to the function."""

from functools import cache

import pytest
import torch

from meristem.axes import Role
from meristem.grow import Firefly, Lemon, Net2Wider, Paired, Random, Splitting, ZeroExtension, ZeroFanOut
from tests.grow.judge import carried_out, fitting, mismatch, moved, planned
from tests.grow.normalized import MODELS
from tests.grow.test_exactness import CHOSEN
from tests.zoo.judge import subject

cached = cache(lambda name: subject(MODELS[name]))


@pytest.mark.parametrize("method", CHOSEN, ids=repr)
@pytest.mark.parametrize("name", MODELS)
def test_what_a_plan_calls_exact_is_and_nothing_is_divided_by_zero(name, method):
    original = cached(name)
    for axis in original.axes.editable:
        if method.undefined(original.axes, axis) is None:
            work = original.copied()
            plan = planned(work, method, axis, fitting(method, axis, 3))
            drift = moved(original, carried_out(work, [plan])) if plan.births else 0.0
            assert drift < (1e-12 if not plan.inexact else torch.inf), axis
            if plan.births and not plan.inexact and not getattr(method, "noise", 0):
                assert mismatch(original, method, axis, plan.births) < 1e-10, axis


@pytest.mark.parametrize("method", [Net2Wider(), Paired()], ids=repr)
@pytest.mark.parametrize(
    ("name", "size", "exact"),
    [("weight norm", 12, False), ("norm of all", 12, False), ("vocoder", 6, True), ("product", 12, False),
     ("linear", 12, True)],
)  # fmt: skip
def test_copies_and_pairs_are_exact_where_readers_are_linear(name, size, exact, method):
    original = cached(name)
    axis = next(axis for axis in original.axes.editable if axis.size == size)
    work = original.copied()
    assert planned(work, ZeroFanOut(), axis, 3).inexact == ()
    plan = planned(work, method, axis, 3)
    drift = moved(original, carried_out(work, [plan]))
    assert (not plan.inexact, drift < 1e-12) == (exact, exact)


@pytest.mark.parametrize("method", [Splitting(), Firefly()], ids=repr)
def test_units_that_normalized_weights_read_are_not_split(method):
    axes = cached("weight norm").axes
    first, second = axes.editable
    assert "not linear" in (method.undefined(axes, first) or "")
    assert method.undefined(axes, second) is None


@pytest.mark.parametrize("method", [Random(fan_in=0.0), Random(fan_in=0.0, fan_out=0.0)], ids=repr)
def test_nothing_is_made_zero_that_is_divided_by_its_norm(method):
    axes = cached("weight norm").axes
    assert all("not linear" in (method.undefined(axes, axis) or "") for axis in axes.editable)


def test_nor_are_means_taken_of_it():
    axes = cached("weight norm").axes
    axis = axes.editable[0]
    assert Role.PRODUCES in axis.nonlinear
    assert ZeroExtension().undefined(axes, axis) is not None
    assert Lemon().undefined(axes, axis) is None  # whole copies, without a normalization to make up for
