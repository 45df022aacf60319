"""Newborns that are zero on a side that no gradient reaches would never learn: refused, and only then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

import meristem
from meristem.axes import AxisMap
from meristem.axes.map import Role
from meristem.errors import EditError
from meristem.grow import METHODS, Candidates, GradMax, GradMaxOpt, Method, Mitosis, Random, ZeroFanOut, require_defined
from tests.grow.table import EVERY, case, plan_of

ZERO_FAN_OUT = {
    "Candidates", "Fresh", "GradMaxOpt", "NorthOpt", "NorthPre", "NorthSelect", "NorthWeight", "SENN", "ZeroFanOut",
}  # fmt: skip


def net(*, detached: bool = False) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.beside = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = gelu(self.first(x))
            return self.last(h.detach() if detached else h) + self.beside(x)

    torch.manual_seed(0)
    return Net()


def traced(model: nn.Module) -> AxisMap:
    return meristem.trace(model, torch.randn(5, 12))


def refused(model: nn.Module, *methods: Method) -> set[str]:
    """The methods that are defined for the axis but may not be used for it."""
    axes = traced(model)
    axis = axes["first"]
    chosen = [m for m in methods or METHODS if m.undefined(axes, axis) is None]
    return {type(m).__name__ for m in chosen if m.refused(axes, axis) is not None}


def test_a_frozen_reader_refuses_newborns_that_nothing_reads() -> None:
    model = net()
    assert refused(model) == set()
    model.last.weight.requires_grad_(False)
    assert refused(model) == ZERO_FAN_OUT
    assert refused(model, Random(fan_out=0), Random(fan_in=0)) == {"Random"}


def test_a_frozen_producer_refuses_newborns_that_read_nothing() -> None:
    model = net()
    model.first.weight.requires_grad_(False)
    assert refused(model) == set()  # biases learn
    model.first.bias.requires_grad_(False)
    assert refused(model) == {"GradMax"}
    assert refused(model, Random(fan_in=0), GradMaxOpt(Random(fan_in=0))) == {"Random", "GradMaxOpt"}
    assert refused(model, Random(fan_in=0, fan_out=0), Candidates(Random(fan_in=0, fan_out=0))) == set()


def test_a_detached_activation_refuses_newborns_that_read_nothing() -> None:
    assert refused(net(detached=True)) == {"GradMax"}


def test_one_weight_that_learns_is_enough() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.other = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).tanh()
            return self.last(h) + self.other(h.detach())

    model = Two()
    model.last.weight.requires_grad_(False)
    assert refused(model) == set()


def test_the_message_says_what_is_frozen_and_what_would_work() -> None:
    model = net()
    model.last.requires_grad_(False)
    axes = traced(model)
    with pytest.raises(EditError, match=r"never learn: what reads them is zero, and last\.weight") as caught:
        require_defined(ZeroFanOut(), axes, [axes["first"]])
    works = str(caught.value).rpartition("defined: ")[2]
    assert "GradMax" in works
    assert "ZeroFanOut" not in works
    detached = net(detached=True)
    axes = traced(detached)
    with pytest.raises(EditError, match=r"what last\.weight reads is detached"):
        require_defined(GradMax(), axes, [axes["first"]])


def test_mitosis_needs_a_producer_that_learns() -> None:
    model = net()
    model.first.requires_grad_(False)
    axes = traced(model)
    assert "first.weight has requires_grad=False" in (Mitosis().undefined(axes, axes["first"]) or "")


@pytest.mark.parametrize("name", EVERY)
def test_the_side_that_a_method_says_is_zero_is_the_side_that_is_zero(name: str) -> None:
    """Of the newborns that it makes, after the edit; biases may keep them awake."""
    kind = "rms norm stream" if name == "ZeroExtension" else "linear, tanh"
    plan = plan_of(kind, name)
    after = case(kind).grown(plan)
    zero = set()
    for place in after.axes.places[plan.axis.index]:
        if place.roles <= {Role.PRODUCES, Role.READS} and plan.births:
            born = after.model.get_parameter(place.layout.name)[after.born(plan, place.layout.name)]
            zero |= place.roles if not born.any() else set()
    side = EVERY[name].zero_side()
    assert zero == (set() if side is None or not plan.births else {side})
