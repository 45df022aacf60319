"""Axes that parameters may share which no example reaches are left alone, unless they are named."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem import Plasticity
from meristem.errors import ConfigError, UnreachedWarning
from meristem.grow import ZeroFanOut
from meristem.plasticity.unseen import unseen
from meristem.prune import Magnitude
from meristem.schedule import Every

QUIET = pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")


class Experts(nn.Module):
    """Each row goes to the expert that a gate chooses; an expert without rows does not run."""

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(6, 8), nn.Linear(8, count)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 8)) for _ in range(count))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y, chosen = torch.zeros_like(x), self.gate(x).argmax(-1)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                y = y.index_add(0, rows, expert(x[rows]))
        return self.head(y)


class Branching(nn.Module):
    """Takes one of two ways; the hidden units of the other branch, and of what comes behind, are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.left = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 7))
        self.right = nn.Linear(8, 7)
        self.tail = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor, right: bool = False) -> Tensor:
        x = self.stem(x)
        return self.tail(self.right(x) if right else self.left(x))


class Unused(nn.Module):
    """Has a token, as long as the stream, that its forward uses in training alone, if at all."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12))
        self.head = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        self.token = nn.Parameter(torch.zeros(length))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def controller(model: nn.Module, example, **options) -> Plasticity:
    optimizer = torch.optim.Adam(model.parameters())
    schedule = Every(1, grow=2, prune=1)
    return Plasticity(model, optimizer, example, grow=ZeroFanOut(), prune=Magnitude(), schedule=schedule, **options)


def trained(plasticity: Plasticity, rows: int = 32, steps: int = 4) -> set[str]:
    """Train for a few steps on inputs that take every way; the names of the axes that were edited."""
    (optimizer,) = plasticity.optimizers
    edited: set[str] = set()
    for _ in range(steps):
        loss = plasticity.model(torch.randn(rows, 6)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        event = plasticity.step(loss)
        assert event is not None
        edited |= {*event.births, *event.deaths}
    plasticity.model(torch.randn(rows, 6))
    return edited


def experts() -> Experts:
    torch.manual_seed(0)
    return Experts()


def test_a_run_goes_on_where_other_ways_are_taken():
    model = experts()
    with pytest.warns(UnreachedWarning) as told:
        plasticity = controller(model, torch.randn(2, 6))
    (said,) = [str(one.message) for one in told if "leaves out" in str(one.message)]
    assert "leaves out 1 of" in said
    assert "stem (perhaps with experts." in said
    assert "also=[(args, kwargs)]" in said
    assert "axes=['stem']" in said
    assert next(one for one in told if "leaves out" in str(one.message)).filename == __file__
    edited = trained(plasticity)
    assert edited
    assert all(name.startswith("experts.") for name in edited)


@QUIET
def test_an_axis_may_be_named_all_the_same():
    model = experts()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plasticity = controller(model, meristem.trace(model, torch.randn(2, 6)), axes="stem")
    assert not [one for one in told if "leaves out" in str(one.message)]
    assert list(plasticity.state_dict()["axes"]) == ["stem"]


def test_an_example_that_reaches_them():
    model = experts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plasticity = controller(model, torch.randn(500, 6))
    assert "stem" in plasticity.state_dict()["axes"]
    trained(plasticity)


@QUIET
def test_what_a_branch_shares_and_what_it_does_not():
    model = Branching()
    axes = meristem.trace(model, torch.randn(4, 6))
    assert axes.unreached == ("right.weight", "right.bias")
    assert unseen(axes) == {"stem": "right.weight", "left.2": "right.weight"}
    assert unseen(meristem.trace(model, torch.randn(4, 6), also=[((torch.randn(4, 6), True), {})])) == {}
    plasticity = controller(model, axes)
    assert trained(plasticity) == {"left.0", "tail.0"}
    model(torch.randn(4, 6), right=True)


@QUIET
@pytest.mark.parametrize(("length", "left"), [(12, {"body.2": "token"}), (8, {}), (5, {}), (99, {})])
def test_what_lies_within_a_child_is_not_shared(length, left):
    assert unseen(meristem.trace(Unused(length), torch.randn(4, 6))) == left


@QUIET
def test_nothing_is_left():
    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor, other: bool = False) -> Tensor:
            return (self.c if other else self.b)(self.a(x))

    model = Only()
    with pytest.raises(ConfigError, match=r"asks to grow and prune, but Plasticity leaves out 1 of 1 axes .* a \(perh"):
        controller(model, torch.randn(2, 6))
    controller(model, torch.randn(2, 6), axes=["a"])


@QUIET
def test_layers_that_are_inserted_keep_to_it():
    model = experts()
    plasticity = controller(model, torch.randn(2, 6))
    axes = plasticity.axes
    assert plasticity._unable(axes, axes["stem"]) is not None
    reached = next(axis for axis in axes.editable if axis.name != "stem")
    assert plasticity._unable(axes, reached) is None


@QUIET
def test_a_resumed_run_keeps_the_choice():
    plasticity = controller(experts(), torch.randn(2, 6))
    trained(plasticity)
    saved = plasticity.state_dict()
    other = controller(experts(), torch.randn(2, 6))
    other.load_state_dict(saved)
    assert "stem" not in other.state_dict()["axes"]
