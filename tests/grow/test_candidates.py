"""Candidates: scores are what gradient descent on one candidate alone gains, on every kind of axis."""

from __future__ import annotations

import pytest
import torch

from meristem.axes import units_along
from meristem.edit import Edit, Explicit, Gather
from meristem.errors import ConfigError, EditError
from meristem.grow import Candidates, Net2Wider, Random
from meristem.signals import View
from tests.edit.models import NAMES, subject
from tests.grow.closures import mlp, task

COUNT, RATE = 8, 1e-4


def alone(name, axis, start):
    """The decrease of the loss, per unit of learning rate, by one step on the slices of one newborn."""
    found = subject(name)
    before = found.axes.by_name[axis].size
    axes = Edit(found.axes).gather(axis, Gather.grow(before, 1), start).commit().axes
    loss = found.loss()
    parameters = dict(found.model.named_parameters())
    gradients = dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True)
    )
    for place in axes.places[axes.by_name[axis].index]:
        gradient = gradients.get(place.layout.name)
        if gradient is not None:
            mine = born(axes, place, axes.by_name[axis].index, before)
            with torch.no_grad():
                step = (RATE * gradient).movedim(place.dim, 0)
                parameters[place.layout.name].movedim(place.dim, 0)[mine] -= step[mine]
    return float((loss - found.loss()).detach()) / RATE


def born(axes, place, axis, before):
    return units_along(place.layout.dims[place.dim], axis, axes.sizes) >= before


def ranks(values):
    return values.argsort().argsort().double()


@pytest.mark.parametrize("name", NAMES)
def test_scores_rank_candidates_as_brute_force_does(name):
    method = Candidates(factor=1)
    for axis in subject(name).axes.editable:
        found = subject(name)
        if method.undefined(found.axes, axis) is not None or axis.couplings:
            continue
        plan = method.propose(View(found.axes, closure=found.loss), axis, COUNT)
        assert list(plan.gains) == sorted(plan.gains, reverse=True)
        decreases = []
        for number in range(COUNT):
            entries = {place: table[number : number + 1] for place, table in plan.start.entries.items()}
            decreases.append(alone(name, axis.name, Explicit("one", entries)))
        predicted, measured = torch.tensor(plan.gains, dtype=torch.float64), torch.tensor(decreases)
        correlation = torch.corrcoef(torch.stack([ranks(predicted), ranks(measured)]))[0, 1]
        assert correlation > 0.9, axis
        torch.testing.assert_close(predicted, measured, rtol=0.05, atol=1e-7, check_dtype=False)


def test_the_best_of_all_candidates_are_kept():
    t = task(mlp(), (20, 4))
    few, all_ = Candidates(factor=5), Candidates(factor=1)
    plan, everything = few.propose(t.view, t.axes["0"], 3), all_.propose(t.view, t.axes["0"], 15)
    assert plan.gains == everything.gains[:3]
    assert plan.births == 3
    for place, table in plan.start.entries.items():
        torch.testing.assert_close(table, everything.start.entries[place][:3], rtol=0, atol=0)
    torch.testing.assert_close(few.gains(t.view, t.axes["0"], 3), torch.tensor(plan.gains, dtype=torch.float64))


def test_the_function_is_preserved_and_the_gradient_is_the_gain():
    t = task(mlp(norm=True), (20, 4))
    plan = Candidates().propose(t.view, t.axes["0"], 3)
    after = t.grown(plan)
    torch.testing.assert_close(after.model(t.x), t.model(t.x), rtol=1e-12, atol=1e-12)
    after.loss().backward()
    columns = after.model.get_parameter("3.weight").grad[:, 6:]
    torch.testing.assert_close(columns.square().sum(0), torch.tensor(plan.gains, dtype=torch.float64))


def test_other_bases_have_other_zero_sides():
    t = task(mlp(), (20, 4))
    plan = Candidates(Random(fan_in=0, fan_out=0.5), 6).propose(t.view, t.axes["0"], 2)
    after = t.grown(plan)
    after.loss().backward()
    rows = after.model.get_parameter("0.weight").grad[6:]
    torch.testing.assert_close(rows.square().sum(1), torch.tensor(plan.gains, dtype=torch.float64), rtol=1e-4, atol=0)
    assert plan.inexact


def test_bases_that_do_not_fit_are_refused():
    t = task(mlp(), (20, 4))
    assert "changes incumbents" in (Candidates(Net2Wider()).undefined(t.axes, t.axes["0"]) or "")
    with pytest.raises(EditError, match="zero at birth"):
        Candidates(Random()).propose(t.view, t.axes["0"], 2)
    with pytest.raises(ConfigError, match="at least 1"):
        Candidates(factor=0)


def test_axes_without_a_side_that_could_be_zero_are_refused():
    tied, bilinear = subject("tied_autoencoder"), subject("grouped_query")
    assert "reads it too" in (Candidates().undefined(tied.axes, tied.axes["first"]) or "")
    assert all(Candidates().undefined(bilinear.axes, axis) is None for axis in bilinear.axes.editable)
