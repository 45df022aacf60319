"""What stands between producer and reader besides activation functions: units' own entries, and what all share."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.axes import AxisMap
from meristem.axes.path import Path
from meristem.errors import SignalError


class Net(nn.Module):
    """Two linear maps with a function of the hidden units, the inputs and a few things that a model may hold between
    them."""

    def __init__(self, between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.scale, self.shift = nn.Parameter(torch.full((4,), 2.0)), nn.Parameter(torch.full((4,), 3.0))
        self.gate, self.gates = nn.Parameter(torch.full((1,), 0.5)), nn.Parameter(torch.tensor([0.25, -0.75]))
        self.register_buffer("held", torch.tensor(1.5))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        used = self.scale.sum() + self.shift.sum() + self.gate.sum() + self.gates.sum()
        return self.out(self.between(self, self.into(x), x)) + 0 * used


class Annealed(nn.Module):
    """Numbers that are attributes, constants, and computed from attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.middle, self.out = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.temperature = 0.4

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.warmed(self.middle(self.cooled(self.into(x)))))

    def cooled(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.temperature) * 0.7

    def warmed(self, x: Tensor) -> Tensor:
        return torch.tanh(x / (2 * self.temperature))


def traced(between: Callable[[Net, Tensor, Tensor], Tensor]) -> tuple[Net, AxisMap]:
    model = Net(between)
    return model, meristem.trace(model, torch.randn(5, 3))


def only(axes: AxisMap, name: str = "into") -> Path:
    (path,) = axes.paths[axes[name].index]
    return path


Z = torch.linspace(-2, 2, 9)[:, None]

SHARED: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "one entry": lambda net, z, x: torch.tanh(net.gate * z),
    "subtracted": lambda net, z, x: torch.relu(z - net.gate),
    "divisor": lambda net, z, x: torch.tanh(z / net.gate),
    "of a vector": lambda net, z, x: net.gates[1] * torch.relu(z),
    "computed": lambda net, z, x: torch.tanh(z * F.softplus(2 * net.gate) + net.gates[0]),
    "in another shape": lambda net, z, x: net.gate.view(1, 1) * z.tanh(),
    "buffer": lambda net, z, x: torch.tanh(net.held * z),
    "with a factor": lambda net, z, x: torch.add(z, net.gate, alpha=3).relu(),
    "in place": lambda net, z, x: z.mul_(net.gate).tanh(),
    "twice": lambda net, z, x: torch.tanh(z + z) * z.new_ones(()).item(),
}


@pytest.mark.parametrize("form", SHARED)
def test_numbers_that_a_model_learns_are_read_when_they_are_needed(form: str) -> None:
    model, axes = traced(SHARED[form])
    path = only(axes)
    assert path.obstacle is None
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(path.activation(Z.clone()), SHARED[form](model, Z.clone(), Z))
            for tensor in (model.gate, model.gates, model.held):
                tensor.mul_(-1.7)


def test_a_number_in_another_dtype_gives_no_other_dtype() -> None:
    _, axes = traced(SHARED["one entry"])
    assert only(axes).activation(Z.double()).dtype == torch.float64
    assert only(axes).activation(Z.bfloat16()).dtype == torch.bfloat16


def test_entries_of_units_themselves_are_left_out_where_those_of_newborns_do_nothing() -> None:
    _, axes = traced(lambda net, z, x: torch.tanh(net.scale * z) - net.shift[None, :] + 2 * net.shift)
    path = only(axes)
    assert path.obstacle is None
    torch.testing.assert_close(path.activation(Z), torch.tanh(Z))


SOMETHING: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "an input that is broadcast": lambda net, z, x: torch.relu(z + x[:, :1]),
    "noise that is broadcast": lambda net, z, x: z + net.gate * torch.randn_like(z[:, :1]),
    "entries of newborns that are not zero": lambda net, z, x: torch.relu(z + net.shift.exp()),
    "entries and a number": lambda net, z, x: torch.relu(z - (net.shift + 1)),
    "a tensor of the code": lambda net, z, x: torch.relu(z + torch.tensor(0.5)),
}


@pytest.mark.parametrize("form", SOMETHING)
def test_what_may_not_be_zero_for_newborns_is_an_obstacle_but_units_can_be_followed(form: str) -> None:
    _, axes = traced(SOMETHING[form])
    path = only(axes)
    assert "may not be zero for newborns" in (path.obstacle or "")
    assert path.blocked is None


class Streamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.gate, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.gate * self.outer(self.inner(x).relu()))


def test_a_gate_stands_on_the_path_through_its_branch_alone() -> None:
    model = Streamed()
    axes = meristem.trace(model, torch.randn(5, 3))
    nn.init.constant_(model.gate, -3.0)
    found = {(p.producer.weight, p.consumer.weight): p for p in axes.paths[axes["stem"].index]}
    torch.testing.assert_close(found["outer.weight", "head.weight"].activation(Z), -3 * Z)
    torch.testing.assert_close(found["stem.weight", "head.weight"].activation(Z), Z)


def test_what_is_added_to_itself_is_met_once() -> None:
    _, axes = traced(lambda net, z, x: torch.relu(z + z))
    torch.testing.assert_close(only(axes).activation(Z), torch.relu(2 * Z))


def test_attributes_are_read_when_they_are_needed_and_constants_stay() -> None:
    model = Annealed()
    axes = meristem.trace(model, torch.randn(5, 3))
    for temperature in (0.4, -2.0):
        model.temperature = temperature
        torch.testing.assert_close(only(axes).activation(Z), torch.tanh(Z * temperature) * 0.7)


def test_a_number_that_is_computed_from_an_attribute_is_refused_once_that_has_changed() -> None:
    model = Annealed()
    path = only(meristem.trace(model, torch.randn(5, 3)), "middle")
    torch.testing.assert_close(path.activation(Z), torch.tanh(Z / 0.8))
    model.temperature = 1.0
    with pytest.raises(SignalError, match=r"temperature was 0\.4 when the model was traced and is 1\.0"):
        path.activation(Z)


class Ambiguous(Annealed):
    def cooled(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.temperature) * 0.4


def test_a_number_that_may_be_an_attribute_or_a_constant_is_refused_once_the_attribute_has_changed() -> None:
    model = Ambiguous()
    path = only(meristem.trace(model, torch.randn(5, 3)))
    torch.testing.assert_close(path.activation(Z), torch.tanh(Z * 0.4) * 0.4)
    model.temperature = 1.0
    with pytest.raises(SignalError, match="Trace the model anew"):
        path.activation(Z)


def test_settings_of_activation_functions_are_attributes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 5), nn.ELU(), nn.Linear(5, 2))
    axes = meristem.trace(model, torch.randn(5, 3))
    model[1].negative_slope = 0.5
    torch.testing.assert_close(only(axes, "0").activation(Z), F.leaky_relu(Z, 0.5))
    torch.testing.assert_close(only(axes, "2").activation(Z), F.elu(Z))


def test_the_map_of_a_copy_reads_from_the_copy() -> None:
    model, axes = traced(SHARED["one entry"])
    copied = deepcopy(model)
    other = replace(axes, model_reference=weakref.ref(copied))
    nn.init.constant_(copied.gate, 4.0)
    torch.testing.assert_close(only(axes).activation(Z), torch.tanh(0.5 * Z))
    torch.testing.assert_close(only(other).activation(Z), torch.tanh(4 * Z))


def test_numbers_are_read_after_edits_too() -> None:
    model, axes = traced(SHARED["one entry"])
    after = meristem.Edit(axes).grow("into", 2).commit().axes
    nn.init.constant_(model.gate, 4.0)
    torch.testing.assert_close(only(after).activation(Z), torch.tanh(4 * Z))


DETACHED: dict[str, tuple[Callable[[Net, Tensor, Tensor], Tensor], list[bool]]] = {
    "nowhere": (lambda net, z, x: z.relu(), [False]),
    "in front of the reader": (lambda net, z, x: z.relu().detach(), [True]),
    "in front of the activation function": (lambda net, z, x: z.detach().relu(), [True]),
    "beside": (lambda net, z, x: z.relu() + 0 * z.detach().sum(), [False]),
    "straight through": (lambda net, z, x: z + (z.sign() + z).detach(), [False, True, True]),
}


@pytest.mark.parametrize("form", DETACHED)
def test_paths_know_where_no_gradient_comes_back(form: str) -> None:
    between, expected = DETACHED[form]
    _, axes = traced(between)
    assert [path.cut for path in axes.paths[axes["into"].index]] == expected


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.out.bias, self.into(x).relu(), self.out.weight.T.contiguous(), alpha=2)


def test_a_contraction_with_a_factor_is_not_taken_for_one_without() -> None:
    axes = meristem.trace(Scaled(), torch.randn(5, 3))
    assert not axes.paths.get(axes["into"].index)
