"""Numbers that are not lengths but follow one: growth of that length is not exact, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import scaled
from meristem.axes.expression import Leaf
from meristem.axes.map import Coupling
from meristem.axes.scalars import factor, followed


class Two(nn.Module):
    """Two branches; what becomes of the first is given."""

    def __init__(self, ending: Callable[[Two, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 5)
        self.c, self.d = nn.Linear(6, 9), nn.Linear(9, 5)
        self.ending = ending

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self, self.a(x).relu()) + self.d(self.c(x).relu())


def made(ending: Callable[[Two, Tensor], Tensor]) -> tuple[Two, Tensor]:
    torch.manual_seed(0)
    return Two(ending).double().eval(), torch.randn(4, 6, dtype=torch.float64)


SCALED: dict[str, Callable[[Two, Tensor], Tensor]] = {
    "integer": lambda m, h: m.b(h) / h.shape[-1],
    "attribute": lambda m, h: m.b(h) * (64 / m.b.in_features),
    "parameters": lambda m, h: m.b(h) / m.b.weight.numel(),
    "keyword": lambda m, h: torch.add(m.b(h), m.b(h), alpha=1 / h.shape[-1]),
    "keyword, at first its default": lambda m, h: torch.add(m.b(h), m.b(h), alpha=h.shape[-1] / 12),
    "constant": lambda m, h: m.b(h) / torch.sqrt(torch.tensor(h.shape[-1], dtype=h.dtype)),
    "constant in single precision": lambda m, h: m.b(h) / torch.tensor(h.shape[-1] ** 0.5, dtype=torch.float32),
    "constant in half precision": lambda m, h: m.b(h) / torch.tensor(h.shape[-1] ** 0.5, dtype=torch.float16),
    "several constants": lambda m, h: m.b(h) * torch.tensor([1, 2, 3, 4, h.shape[-1]]),
    "new tensor": lambda m, h: m.b(h) * h.new_tensor(1 / h.shape[-1]),
    "filled": lambda m, h: m.b(h) * torch.full((), 1 / h.shape[-1], dtype=h.dtype),
    "zero at first": lambda m, h: m.b(h) + (h.shape[-1] - 12),
    "no power": lambda m, h: m.b(h) / (3 + h.shape[-1]),
    "read out of a constant": lambda m, h: m.b(h) * torch.tensor(h.shape[-1]).item(),
    "read out of data": lambda m, h: m.b(h) * h.new_tensor(h.shape[-1]) * (1.0 + int((h > 9).any())),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_number_that_follows_a_width_shows_on_it_alone(name: str) -> None:
    model, x = made(SCALED[name])
    axes = meristem.trace(model, x)
    assert [axis.name for axis in axes.editable] == ["a", "c"]
    assert Coupling.SCALED in axes["a"].couplings
    assert axes["c"].exact
    before = model(x)
    meristem.Edit(axes).grow("c", 2).commit()
    assert torch.allclose(model(x), before, atol=1e-12)
    meristem.Edit(meristem.trace(model, x)).grow("a", 2).commit()
    assert not torch.allclose(model(x), before, atol=1e-4)


def test_a_branch_that_only_changes_a_number_shows() -> None:
    model, x = made(lambda m, h: m.b(h * 0.5 if h.shape[-1] > 20 else h * 2))
    axes = meristem.trace(model, x)
    assert Coupling.SCALED in axes["a"].couplings
    assert axes["c"].exact


EXACT: dict[str, Callable[[Two, Tensor], Tensor]] = {
    "dropout, clamp": lambda m, h: m.b(nn.functional.dropout(h, 0.3, training=False).clamp(0, 6)),
    "view": lambda m, h: m.b(h.view(2, 2, h.shape[-1]).flatten(0, 1)),
    "whole slice": lambda m, h: m.b(h.narrow(1, 0, h.shape[1])),
    "size out of a constant": lambda m, h: m.b(h.view(4, int(torch.tensor(h.shape[-1])))),
    "a number of its own": lambda m, h: m.b(h) * torch.tensor(0.3) + torch.full((), 2.0),
    "split": lambda m, h: m.b(torch.cat(h.split(2, 0)[::-1])),
    "batch size": lambda m, h: m.b(h) / len(h),
    "random numbers": lambda m, h: m.b(h) * h.new_tensor(next(COUNT)).sign(),
}
COUNT = iter(range(1, 100_000))


@pytest.mark.parametrize("name", EXACT)
def test_numbers_that_follow_no_width_do_not_show(name: str) -> None:
    model, x = made(EXACT[name])
    axes = meristem.trace(model, x)
    assert [axis.name for axis in axes.editable] == ["a", "c"]
    assert all(axis.exact for axis in axes.editable)


class Many(nn.Module):
    """Many branches; a number is made of the widths of two of them."""

    def __init__(self, number: Callable[[int, int], float]) -> None:
        super().__init__()
        self.ups = nn.ModuleList(nn.Linear(6, n) for n in range(7, 19))
        self.downs = nn.ModuleList(nn.Linear(n, 5) for n in range(7, 19))
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        hidden = [up(x).relu() for up in self.ups]
        number = self.number(hidden[2].shape[-1], hidden[9].shape[-1])
        return torch.stack([down(h) for down, h in zip(self.downs, hidden, strict=True)]).sum(0) * number


@pytest.mark.parametrize(
    "number",
    [lambda n, m: 1 / (2 * n + m), lambda n, m: n**-0.5 * m, lambda n, m: 3.0 if n > 20 and m > 20 else 2.0],
    ids=["sum", "product", "only both"],
)
def test_a_number_of_two_widths_shows_on_both(number: Callable[[int, int], float]) -> None:
    axes = meristem.trace(Many(number), torch.randn(4, 6))
    found = {axis.name for axis in axes.editable if not axis.exact}
    assert len(axes.editable) == 12
    assert {"ups.2", "ups.9"} <= found
    assert len(found) < 12 or number(200, 9) == number(9, 200) == 2.0


def test_when_it_takes_too_long_to_tell_axes_apart_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled, "_TRIALS", 3)
    axes = meristem.trace(Many(lambda n, m: 1 / (2 * n + m)), torch.randn(4, 6))
    found = {axis.name for axis in axes.editable if not axis.exact}
    assert {"ups.2", "ups.9"} <= found


class Attention(nn.Module):
    """Scores are divided by a root of the width of all heads, which is no single axis."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 5)
        self.heads = 3

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = nn.functional.scaled_dot_product_attention(q, k, v, scale=(q.shape[1] * q.shape[3]) ** -0.5)
        return self.o(a.transpose(1, 2).flatten(2))


def test_a_product_of_axes_shows_on_its_factors() -> None:
    axes = meristem.trace(Attention(), torch.randn(2, 5, 6))
    heads, size = axes["q[0]"], axes["q[1]"]
    assert Coupling.SCALED in heads.couplings
    assert Coupling.SCALED in size.couplings
    assert all(Coupling.SCALED not in axis.couplings for axis in axes.editable if axis not in (heads, size))


def test_nothing_is_multiplied_to_zero_or_from_it():
    """Counts of what data chose may be zero."""
    assert isnan(factor(2.0, 0.0))
    assert isnan(factor(0, 3))
    assert isnan(factor(torch.tensor([2.0, 4.0]), torch.zeros(2)))
    assert factor(2.0, 4.0) == 2.0
    assert followed(2.0, {Leaf(0): (0, 3), Leaf(1): (2, 0), Leaf(2): (3, 6)}) == {Leaf(2)}
