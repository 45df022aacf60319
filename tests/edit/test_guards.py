"""What the code compares where branches go and come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem import depth
from meristem.axes.map import AxisMap
from meristem.edit import Edit
from meristem.errors import EditError

Way = Callable[[Tensor], Tensor]


def as_it_is(h: Tensor) -> Tensor:
    return h


def wide(h: Tensor) -> Tensor:
    return h.relu() if h.shape[-1] > 3 else h.tanh()


def not_six(h: Tensor) -> Tensor:
    return h.relu() if h.shape[-1] != 6 else h.tanh()


def not_eleven(h: Tensor) -> Tensor:
    return h.relu() if h.shape[-1] != 11 else h.tanh()


def over_five(h: Tensor) -> Tensor:
    return h.relu() if h.shape[-1] > 5 else h.tanh()


class Branch(nn.Module):
    """A layer, and code that looks at its width."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.layer, self.way = nn.Linear(6, 4), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.layer(x))


class Branches(nn.Module):
    """Two branches of 4 and 5 units; `inner` looks at the first one's width, `outer` at both together."""

    def __init__(self, inner: Way = as_it_is, outer: Way = as_it_is) -> None:
        super().__init__()
        self.first, self.second, self.head, self.outer = Branch(inner), nn.Linear(6, 5), nn.Linear(9, 2), outer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.outer(torch.cat([self.first(x), self.second(x).relu()], -1)))


def traced(model: nn.Module) -> tuple[AxisMap, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(5, 6).double()
    return meristem.trace(model.double(), x), x


@pytest.mark.parametrize("inner", [wide, not_six])
def test_a_branch_goes_with_what_its_code_compares(inner: Way) -> None:
    model = Branches(inner)
    axes, x = traced(model)
    assert len(axes.guards) == 1
    places = depth.places(axes)
    assert [branch.frozen for branch in places.branches] == [None, None]
    after = Edit(axes).depth(depth.RemoveBranch(places, "first")).commit().axes
    assert model(x).shape == (5, 2)
    assert after.guards == ()


def test_code_that_stays_and_would_go_another_way_keeps_a_branch() -> None:
    model = Branches(outer=over_five)
    axes, _ = traced(model)
    with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes: \(first.layer \+ second\) > 5"):
        Edit(axes).depth(depth.RemoveBranch(depth.places(axes), "first")).preview()


@pytest.mark.parametrize(("units", "fits"), [(2, False), (3, True)])
def test_code_behind_a_branch_compares_it_as_well(units: int, fits: bool) -> None:
    model = Branches(outer=not_eleven)
    axes, x = traced(model)
    before, edit = model(x), Edit(axes).depth(depth.ConcatBranch(depth.places(axes), "first", units))
    if fits:
        edit.commit()
        torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    else:
        with pytest.raises(EditError, match=r"\(first.layer \+ a branch beside first\) \+ second\) != 11"):
            edit.commit()


def test_code_within_a_module_does_not_see_a_branch_beside_it() -> None:
    model = Branches(not_six)
    axes, x = traced(model)
    before = model(x)
    Edit(axes).depth(depth.ConcatBranch(depth.places(axes), "first", 2)).commit()
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
