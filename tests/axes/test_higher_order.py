"""Operators that take functions are walked into, or refused by name; and the model runs afterwards as it did before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as mapped
from torch._higher_order_ops.while_loop import while_loop

import meristem
from meristem.edit import Edit
from meristem.errors import TraceError


class Net(nn.Module):
    """A layer, something that takes functions, and a layer."""

    def __init__(self, way: Callable[[Net, Tensor, Tensor], Tensor], width: int = 12) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(6, 12), nn.Linear(width, 4), way
        self.one, self.other = nn.Linear(12, width), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.way(self, x, self.first(x)))


def branches(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda h: h.relu(), lambda h: h.tanh(), (h,))


def branches_with_weights(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda h: net.one(h).relu(), lambda h: net.other(h), (h,))


def loop(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, net.one(h).relu()), (torch.tensor(0), h))[1]


def each(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return mapped(lambda row, *_: net.one(row).relu(), h)


def runs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.filterwarnings("ignore")  # of PyTorch about itself, when it compiles
@pytest.mark.parametrize(
    ("way", "width", "editable"),
    [(branches, 12, {12: 1}), (branches_with_weights, 9, {12: 1, 9: 1}), (loop, 12, {12: 1}), (each, 9, {12: 1, 9: 1})],
)
def test_functions_are_walked_into(
    way: Callable[[Net, Tensor, Tensor], Tensor], width: int, editable: dict[int, int]
) -> None:
    torch.manual_seed(0)
    model, x = Net(way, width).double().eval(), torch.randn(3, 6).double()
    axes = meristem.trace(model, x)
    sizes = [axis.size for axis in axes.editable]
    assert {size: sizes.count(size) for size in sizes} == editable
    before = runs(model, x)
    edit = Edit(axes)
    for axis in axes.editable:
        edit.grow(axis, 2)
    assert edit.preview().exact
    axes = edit.commit().axes
    assert torch.allclose(runs(model, x), before, rtol=1e-12, atol=1e-12)
    edit = Edit(axes)
    for axis in axes.editable:
        edit.permute(axis, list(reversed(range(axis.size))))
    edit.commit()
    assert torch.allclose(runs(model, x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_branches_of_different_layers_are_coupled() -> None:
    axes = meristem.trace(Net(branches_with_weights, 9), torch.randn(3, 6))
    assert axes["one"] == axes["other"]
    assert axes.unreached == ()


@pytest.mark.filterwarnings("ignore")
def test_what_branches_compare_is_seen() -> None:
    def compared(net: Net, x: Tensor, h: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda h: h.relu() if h.shape[-1] > 8 else h.sin(), lambda h: h.tanh(), (h,))

    model = Net(compared)
    assert meristem.trace(model, torch.randn(3, 6))["first"].minimum == 9


@pytest.mark.filterwarnings("ignore")
def test_others_are_refused_by_name_and_the_model_runs_afterwards() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    class Flex(nn.Module):
        """Attention whose scores a function may change."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.first(x).view(2, 5, 3, 8).transpose(1, 2).chunk(3, 1)
            return flex_attention(q, k, v)

    model, x = Flex(), torch.randn(2, 5, 6)
    compiled = torch.compile
    with pytest.raises(TraceError, match=r"flex_attention has no rule.*at .*test_higher_order\.py:\d+") as raised:
        meristem.trace(model, x)
    assert "Give the arguments" not in str(raised.value)
    assert torch.compile is compiled
    assert runs(model, x).shape == (2, 1, 5, 8)
