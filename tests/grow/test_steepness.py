"""How steep incumbents are, and that newborns of TINY are no steeper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import AxisMap, Role
from meristem.grow import TINY, HyperCloning
from meristem.grow.parts.steepness import spectral_norm, steepness
from meristem.signals import View
from tests.grow.sites import SITES, commit, make, objective, planned

SMALL = 1e-9


def norms(axes: AxisMap, name: str, reading: bool, born: int) -> Tensor:
    """Of the last units' slices, biases with the fan-in."""
    squares = []
    for place in axes.places[axes[name].index]:
        if reading == (Role.READS in place.roles):
            tensor = axes.model.get_parameter(place.layout.name).detach().movedim(place.dim, 0)
            squares.append(tensor.reshape(axes[name].size, -1)[-born:].square().sum(1))
    return torch.stack(squares).sum(0).sqrt()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
@pytest.mark.parametrize("site", ["linear", "same", "strided", "flattened", "into transposed", "two readers", "shared"])
def test_no_newborn_is_steeper_than_it_may_be(site: str, activation: nn.Module) -> None:
    """A loss in large units wants large moves: at the limit all are equally steep, and gains are those of what is
    inserted."""
    for share in (0.5, SMALL):
        model, x, labels, axis = make(SITES[site], activation)
        loss = objective(model, x, labels)
        axes, _, plan = planned(TINY(steepness=share), model, lambda f=loss: 1e6 * f(), x, axis, 2)
        limit, before = share * steepness(View(axes), axes[axis]), float(loss().detach())
        after = commit(axes, plan)
        steep = norms(after, axis, False, 2) * norms(after, axis, True, 2)
        torch.testing.assert_close(steep, torch.full_like(steep, limit))
        if share == SMALL:
            assert 1e6 * (before - float(loss().detach())) == pytest.approx(sum(plan.gains), rel=1e-2)


def test_steepness_is_a_product_of_spectral_norms_which_doubling_every_unit_leaves_as_it_is() -> None:
    model, x, labels, axis = make(SITES["flattened"], nn.Tanh())
    axes = meristem.trace(model, x)
    fan_in = model[0].weight.detach().flatten(1)
    fan_out = model[3].weight.detach().unflatten(1, (4, 16)).transpose(0, 1).flatten(1)
    expected = math.prod(float(torch.linalg.matrix_norm(m, 2)) for m in (fan_in, fan_out))
    assert steepness(View(axes), axes[axis]) == pytest.approx(expected, rel=0.01)
    _, _, plan = planned(HyperCloning(), model, objective(model, x, labels), x, axis, 4)
    after = commit(axes, plan)
    assert after[axis].size == 8
    assert steepness(View(after), after[axis]) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (30, 30), (1, 1)])
def test_spectral_norms_are_found_from_below(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert 0.95 * exact < spectral_norm(matrix) < (1 + 1e-12) * exact
    assert spectral_norm(torch.zeros(shape)) == 0


def test_batch_norm_counts_as_if_it_were_folded_into_the_fan_in() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    model(3 * x)
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
    axes = meristem.trace(model, x)
    factor = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    fan_in = factor[:, None] * model[0].weight
    expected = math.prod(float(torch.linalg.matrix_norm(m.detach(), 2)) for m in (fan_in, model[3].weight))
    assert steepness(View(axes), axes["0"]) == pytest.approx(expected, rel=0.01)


def test_where_nothing_is_read_yet_nothing_limits_newborns() -> None:
    """A head that starts from zeros."""
    model, x, labels, axis = make(SITES["linear"], nn.ReLU())
    with torch.no_grad():
        model[2].weight.zero_()
    loss, gains = objective(model, x, labels), []
    for method in (TINY(), TINY(steepness=math.inf)):
        _, _, plan = planned(method, model, loss, x, axis, 2)
        gains.append(plan.gains)
    assert gains[0] == gains[1]
    assert min(gains[0]) > 0


def test_as_published_newborns_are_the_least_squares_solution() -> None:
    """With next to no ridge and no limit: as many newborns as there are directions add all that the loss wants."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 5)).double()
    x, wanted = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    method = TINY(ridge=1e-13, steepness=math.inf)
    axes, _, plan = planned(method, model, lambda: -(model(x) * wanted).sum() / len(x), x, "0", 5)
    commit(axes, plan)
    added = model[1].weight.detach()[:, 4:] @ model[0].weight.detach()[4:]
    torch.testing.assert_close(added.T, torch.linalg.lstsq(x, wanted).solution, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("site", ["linear", "same", "into transposed"])
def test_the_reader_moves_no_farther_than_it_is_long(site: str) -> None:
    model, x, labels, axis = make(SITES[site], nn.Tanh())
    loss = objective(model, x, labels)
    axes, _, plan = planned(TINY(best_move=True, steepness=0.5), model, lambda: 1e6 * loss(), x, axis, 2)
    reader = next(p.layout.name for p in axes.places[axes[axis].index] if Role.READS in p.roles)
    before = model.get_parameter(reader).detach().clone()
    after = commit(axes, plan)
    reads = next(p.dim for p in after.places[after[axis].index] if Role.READS in p.roles)
    moved = model.get_parameter(reader).detach().narrow(reads, 0, before.shape[reads]) - before
    assert spectral_norm(moved.flatten(1)) == pytest.approx(0.5 * spectral_norm(before.flatten(1)), rel=0.05)


def test_the_line_search_begins_where_newborns_are_as_steep_as_they_may_be() -> None:
    model, x, labels, axis = make(SITES["linear"], nn.Tanh())
    loss = objective(model, x, labels)
    for amplitude in (1e6, 1e12):
        axes, _, plan = planned(TINY(amplitude=amplitude), model, loss, x, axis, 2, closure=True)
        before = float(loss().detach())
        with meristem.edit.trial(axes, [meristem.edit.Change(plan.axis, plan.gather, plan.start)]):
            assert float(loss().detach()) < before
