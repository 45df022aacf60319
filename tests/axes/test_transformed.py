"""Parameters that are transformed before they meet the units: what newborns start from, and when that is exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meristem.axes import Role
from meristem.grow import Fresh, Method, Paired
from tests.grow.judge import carried_out, moved, planned
from tests.zoo.judge import Subject, attempt, broken, grown, growth_check, half, permutation_check, prune_check, subject
from tests.zoo.row import Row

pytestmark = pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")


class Between(nn.Module):
    """Two linear layers, and vectors p, q, v of positive numbers over the units between them."""

    def __init__(self, formula: Callable[[Between, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 5)
        self.p, self.q, self.v = (nn.Parameter(torch.rand(12) + 0.5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


class Square(nn.Module):
    """Two linear layers, and in between a matrix computed from w, from the units to themselves."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.a, self.w, self.b = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(torch.tanh(self.a(x)) @ self.formula(self.w)))


def snake(m: Between, x: Tensor) -> Tensor:
    hidden = m.a(x)
    return m.b(hidden + torch.sin(m.p * hidden) ** 2 / m.p)


# name: the formula, and whether zero fan-out is known to be exact
FORMULAS: dict[str, tuple[Callable[[Between, Tensor], Tensor], bool]] = {
    "a quotient added": (lambda m, x: m.b((m.a(x) + m.p / m.q).relu()), True),
    "less a mean, by a deviation": (lambda m, x: m.b(((m.a(x) - m.p) / m.q).relu()), True),
    "by a root": (lambda m, x: m.b((m.a(x) - m.p * m.v.rsqrt()).relu()), True),
    "a root added": (lambda m, x: m.b((m.a(x) + m.p.sqrt()).relu()), True),
    "a logarithm added": (lambda m, x: m.b((m.a(x) - m.p.log()).relu()), True),
    "a logarithm of sizes added": (lambda m, x: m.b(torch.tanh(m.a(x) + m.p.abs().log())), True),
    "a logarithm of a difference": (lambda m, x: m.b(m.a(x) * (m.p + 1.5 - m.q).log()), True),
    "an inverse added": (lambda m, x: m.b((m.a(x) + 1 / m.p).relu()), True),
    "a power": (lambda m, x: m.b(m.a(x).relu().pow(m.p)), True),
    "an angle": (lambda m, x: m.b(torch.atan2(m.a(x), m.p)), True),
    "a scale of one more": (lambda m, x: m.b(m.a(x) * (1 + m.p)), True),
    "added and divided by": (lambda m, x: m.b(m.a(x) + m.p) + m.b(m.a(x) / m.p), True),
    "snake": (snake, True),
    "producers by a root": (lambda m, x: m.b(torch.relu(x @ (m.a.weight * m.v.rsqrt()[:, None]).T)), True),
    "readers divided": (lambda m, x: torch.relu(m.a(x)) @ (m.b.weight / m.q).T, False),
    "a logarithm reads": (lambda m, x: torch.relu(m.a(x)) @ m.p.log()[:, None], False),
}

SQUARES: dict[str, Callable[[Tensor], Tensor]] = {
    "plus its transpose": lambda w: w + w.T,
    "less its transpose": lambda w: w - w.mT,
    "their mean": lambda w: (w + w.mT) / 2,
    "plus a function of its transpose": lambda w: w + w.T.tanh(),
    "times its transpose": lambda w: w * w.T,
}


def between(name: str) -> Subject:
    return subject(Row(name, lambda: Between(FORMULAS[name][0]), lambda batch: (torch.randn(batch, 6),)))


@pytest.mark.parametrize("name", FORMULAS)
def test_outputs_and_gradients_stay_finite(name: str) -> None:
    found = between(name)
    (axis,) = found.axes.editable
    assert axis.exact == FORMULAS[name][1]
    for count in (1, 3):
        assert attempt(growth_check(lambda size, count=count: count, 1e-12), found, [axis]) is None
    assert attempt(permutation_check, found, [axis]) is None


@pytest.mark.parametrize("method", [Fresh(), Paired()], ids=repr)
@pytest.mark.parametrize("name", FORMULAS)
def test_methods_keep_to_it(name: str, method: Method) -> None:
    found = between(name)
    (axis,) = found.axes.editable
    if method.undefined(found.axes, axis) is None:
        plan = planned(found, method, axis, 4)
        after = carried_out(found.copied(), [plan])
        assert broken(found, after, {axis.index: 4}) is None
        assert plan.inexact or moved(found, after) < 1e-12


def test_newborns_get_entries_of_the_same_incumbents() -> None:
    found = between("a logarithm of a difference")
    after = dict(grown(found, found.axes.editable, lambda size: 15).model.named_parameters())
    for name in "pq":
        old = found.model.get_parameter(name)
        assert torch.equal(after[name], torch.cat([old, old, old[:3]]))


@pytest.mark.parametrize(
    ("name", "copied", "neutral"),
    [
        ("less a mean, by a deviation", {"p": set(), "q": set()}, {"p": 0.0, "q": 1.0}),
        ("a quotient added", {"p": {Role.CARRIES}, "q": set(Role)}, {"p": None, "q": None}),
        ("a scale of one more", {"p": {Role.CARRIES}}, {"p": None}),
        ("added and divided by", {"p": {Role.CARRIES}}, {"p": None}),
        ("snake", {"p": set()}, {"p": 1.0}),
    ],
)
def test_what_does_nothing(name: str, copied: dict[str, set[Role]], neutral: dict[str, float | None]) -> None:
    layouts = between(name).axes.layouts
    assert {key: set(layouts[key].copied) for key in copied} == copied
    assert {key: layouts[key].neutral for key in neutral} == neutral


@pytest.mark.parametrize("name", SQUARES)
def test_a_matrix_and_its_own_transpose(name: str) -> None:
    found = subject(Row(name, lambda: Square(SQUARES[name]), lambda batch: (torch.randn(batch, 6),)))
    (axis,) = found.axes.editable
    assert axis.exact
    for check in (growth_check(lambda size: 3, 1e-12), permutation_check, prune_check(half)):
        assert attempt(check, found, [axis]) is None
