"""Activity of units that cannot be followed from producers to readers, against channels that are told by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meristem
from meristem.diagnose import Monitor
from meristem.errors import SignalError
from meristem.schedule import Every
from meristem.signals import Directions, UnitActivity, activation_frequency, gradient_size
from tests.signals.passes import recorded


class Gated(nn.Module):
    """A gated hidden layer in a residual stream behind LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.gate, self.up, self.down = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.norm(x)
        return self.head(x + self.down(nn.functional.silu(self.gate(h)) * self.up(h)))


class Attention(nn.Module):
    """Two groups of two heads, queries and keys of size 3, values of size 2; keys and values are shared in a group."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 12), nn.Linear(4, 6), nn.Linear(4, 4)
        self.out, self.shared, self.size, self.value_size = nn.Linear(8, 3), 2, 3, 2

    def forward(self, x: Tensor) -> Tensor:
        q, k = (f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.query, self.key))
        v = self.value(x).unflatten(-1, (-1, self.value_size)).transpose(1, 2)
        k, v = (y.repeat_interleave(self.shared, 1) for y in (k, v))
        a = (q @ k.transpose(-1, -2) / self.size**0.5).softmax(-1) @ v
        return self.out(a.transpose(1, 2).flatten(2))


def inverted() -> nn.Module:
    """A depthwise convolution between two pointwise ones."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )  # fmt: skip


def grouped() -> nn.Module:
    """A convolution in two groups: of the first axis every unit has a channel in each, of the second, too."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Tanh(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )  # fmt: skip


def transposed() -> nn.Module:
    """The same with a transposed one."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Tanh(), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )  # fmt: skip


@dataclass(frozen=True)
class Units:
    """Of each unit, its channels in what modules give and in what the first reader reads."""

    given: Mapping[str, Sequence[Sequence[int]]]
    read: tuple[str, Sequence[Sequence[int]]]


def plain(count: int) -> list[list[int]]:
    return [[unit] for unit in range(count)]


TWO = [[0, 1, 2], [3, 4, 5]]
CASES = {
    "gated": (Gated, (7, 4), {
        "gate": Units({"gate": plain(5), "up": plain(5)}, ("down", plain(5))),
        "embed": Units({"embed": plain(6), "down": plain(6)}, ("gate", plain(6))),
    }),
    "attention": (Attention, (2, 5, 4), {
        "query[0]": Units({"query": [[*range(6)], [*range(6, 12)]], "key": TWO, "value": [[0, 1], [2, 3]]},
                          ("out", [[0, 1, 2, 3], [4, 5, 6, 7]])),
        "query[1]": Units({"query": [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]},
                          ("out", [[0, 1, 4, 5], [2, 3, 6, 7]])),
        "value[1]": Units({"value": [[0, 2], [1, 3]]}, ("out", [[0, 2, 4, 6], [1, 3, 5, 7]])),
    }),
    "depthwise": (inverted, (3, 2, 6, 6), {"0": Units({"0": plain(4)}, ("4", plain(4)))}),
    "grouped": (grouped, (3, 2, 6, 6), {
        "0[1]": Units({"0": [[0, 3], [1, 4], [2, 5]]}, ("2", [[0, 3], [1, 4], [2, 5]])),
        "2[1]": Units({"2": [[0, 2], [1, 3]]}, ("4", [[0, 2], [1, 3]])),
        "0[0]": Units({"0": TWO, "2": [[0, 1], [2, 3]]}, ("4", [[0, 1], [2, 3]])),
    }),
    "transposed": (transposed, (3, 2, 6, 6), {
        "0[1]": Units({"0": [[0, 3], [1, 4], [2, 5]]}, ("2", [[0, 3], [1, 4], [2, 5]])),
        "2": Units({"2": [[0, 2], [1, 3]]}, ("4", [[0, 2], [1, 3]])),
    }),
}  # fmt: skip


def rows(x: Tensor, channels: Sequence[Sequence[int]], dim: int) -> Tensor:
    """Shape (numbers of a unit, units)."""
    return torch.stack([x.movedim(dim, -1)[..., own].flatten() for own in channels], 1)


@pytest.mark.parametrize(("case", "axis"), [(case, axis) for case, (_, _, axes) in CASES.items() for axis in axes])
def test_activity_is_that_of_the_channels_of_units(case: str, axis: str) -> None:
    build, shape, units = CASES[case]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    axes = meristem.trace(model, x)
    asked, dim = UnitActivity(axis), 1 if len(shape) == 4 else -1
    assert asked.undefined(axes, axes[axis]) is None
    read, gradients = [], []
    name, channels = units[axis].read
    handles = [model.get_submodule(name).register_forward_pre_hook(lambda _, args: read.append(args[0].detach()))]
    for module, own in units[axis].given.items():

        def keep(_: nn.Module, args: object, z: Tensor, own: Sequence[Sequence[int]] = own) -> None:
            z.register_hook(lambda gradient: gradients.append(rows(gradient, own, dim)))

        handles.append(model.get_submodule(module).register_forward_hook(keep))
    found = recorded(axes, [asked], lambda: (model(x) ** 2).sum().backward())[asked]
    for handle in handles:
        handle.remove()
    h, delta = rows(read[0], channels, dim), torch.cat(gradients)
    torch.testing.assert_close(found.frequency, activation_frequency(h))
    torch.testing.assert_close(found.size, h.abs().mean(0))
    torch.testing.assert_close(found.gradient, gradient_size(delta))


def test_transposed_groups_as_units_are_refused() -> None:
    """Which channels a group gives stands in no dimension of the weight."""
    axes = meristem.trace(transposed(), torch.randn(3, 2, 6, 6))
    assert UnitActivity("0[0]").undefined(axes, axes["0[0]"]) == "2.weight produces it in a way that cannot be heard"


class Otherwise(nn.Module):
    """A weight that is a factor besides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) + self.first.weight.sum(0)


def test_weights_that_are_used_otherwise_besides_are_refused() -> None:
    axes = meristem.trace(Otherwise(), torch.randn(3, 4))
    assert UnitActivity("first").undefined(axes, axes["first"]) == (
        "first.weight produces it in a way that cannot be heard"
    )


class Both(nn.Module):
    """One square weight, as it is and the other way round; what it gives first it reads then."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(nn.functional.linear(x, self.weight)) @ self.weight)


def test_a_weight_that_is_laid_out_either_way_is_told_by_its_calls() -> None:
    torch.manual_seed(0)
    model, x = Both().double(), torch.randn(7, 4, dtype=torch.float64)
    axes = meristem.trace(model, x)
    axis = next(axis for axis in axes if axis.size == 5)
    asked = UnitActivity(axis.name)
    found = recorded(axes, [asked], lambda: model(x).sum().backward())[asked]
    z = nn.functional.linear(x, model.weight).detach().requires_grad_()
    model.head(torch.tanh(z) @ model.weight).sum().backward()
    torch.testing.assert_close(found.size, torch.tanh(z).detach().abs().mean(0))
    assert z.grad is not None
    torch.testing.assert_close(found.gradient, z.grad.abs().mean(0))


@pytest.mark.parametrize("build", [grouped, transposed])
def test_groups_may_be_an_axis_that_was_edited(build: Callable[[], nn.Module]) -> None:
    """The map that a commit returns knows as many groups as a new one."""
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    axes = meristem.trace(model, x)
    edited = meristem.Edit(axes).grow("0[0]", 1, start=meristem.grow.Fresh()).commit().axes
    fresh = meristem.trace(model, x)
    groups = [[(end.weight, end.groups) for ends in a.contractions.values() for end in ends] for a in (edited, fresh)]
    assert groups[0] == groups[1]
    assert ("2.weight", 3) in groups[0]
    for name in (axis.name for axis in edited.editable if UnitActivity(axis.name).undefined(edited, axis) is None):
        asked = UnitActivity(name)
        found = [recorded(a, [asked], lambda: (model(x) ** 2).sum().backward())[asked] for a in (edited, fresh)]
        torch.testing.assert_close(found[0].gradient, found[1].gradient)
        torch.testing.assert_close(found[0].size, found[1].size)


def test_directions_know_the_groups_of_today() -> None:
    torch.manual_seed(0)
    model, x = grouped().double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    asked = Directions("2[1]", 1)
    edited = meristem.Edit(meristem.trace(model, x)).grow("0[0]", 1, start=meristem.grow.Fresh()).commit().axes
    found = [recorded(a, [asked], lambda: (model(x) ** 2).sum().backward())[asked]
             for a in (edited, meristem.trace(model, x))]  # fmt: skip
    torch.testing.assert_close(found[0].values, found[1].values)
    torch.testing.assert_close(found[0].outgoing.abs(), found[1].outgoing.abs())


def test_a_net_whose_groups_grow_is_watched_all_along() -> None:
    torch.manual_seed(0)
    model, x = grouped(), torch.randn(3, 2, 6, 6)
    optimizer, monitor = torch.optim.SGD(model.parameters(), 0.01), Monitor(1)
    plasticity = meristem.Plasticity(
        model, optimizer, x, grow=meristem.grow.ZeroFanOut(), schedule=Every(2, grow=0.5), monitor=monitor
    )
    for _ in range(6):
        (model(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        plasticity.step()
    assert plasticity.axes["0[0]"].size > 2
    assert {*monitor.records[-1].axes} == {"0[0]", "0[1]", "2[1]"}


class Checkpointed(nn.Module):
    """A branch whose calls are made without a graph at first, and once more in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + checkpoint(lambda h: self.down(self.up(h).relu()), x, use_reentrant=True))


class Double(torch.autograd.Function):
    """Computes without a graph, as all of these do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


class InTraining(nn.Module):
    """Uses a weight in another way when it is trained; `way` says how."""

    def __init__(self, way: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(4, 5, bias=False), nn.Linear(5, 3), way

    def forward(self, x: Tensor) -> Tensor:
        z = self.way(x, self.first.weight) if self.training else self.first(x)
        return self.last(z.relu())


@pytest.mark.parametrize(
    ("build", "axis", "weight"),
    [
        (Checkpointed, "embed", "down.weight"),
        (lambda: InTraining(Double.apply), "first", "first.weight"),
        (lambda: InTraining(lambda x, w: nn.functional.linear(x, w) + nn.functional.linear(x, 2 * w)), "first",
         "first.weight"),
    ],
)  # fmt: skip
def test_gradients_of_calls_that_are_not_heard_are_told(build: Callable[[], nn.Module], axis: str, weight: str) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(7, 4)
    axes = meristem.trace(model, x)
    assert UnitActivity(axis).undefined(axes, axes[axis]) is None
    model.train()
    with pytest.raises(SignalError, match=f"{weight}.* got gradients through calls that were not heard"):
        recorded(axes, [UnitActivity(axis)], lambda: model(x).sum().backward())


class TwoCuts(nn.Module):
    """One kernel, with one group and with two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.first(x).relu(), self.conv.weight
        y = nn.functional.conv2d(h, w) + nn.functional.conv2d(torch.cat([h, h], 1), w, groups=2)
        return self.head(y)


def test_a_kernel_that_is_cut_in_two_ways_is_refused() -> None:
    axes = meristem.trace(TwoCuts(), torch.randn(2, 2, 5, 5))
    assert "conv.weight" not in axes.contractions
    for axis in axes.editable:
        if any(place.layout.name == "conv.weight" for place in axes.places[axis.index]):
            assert UnitActivity(axis.name).undefined(axes, axis) is not None
