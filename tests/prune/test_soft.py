"""Silent units: what `silence` refuses, and maps of a model that has been edited since."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import meristem
from meristem.axes.map import Axis, AxisMap, Coupling, Role
from meristem.edit import Edit
from meristem.errors import EditError, FrozenAxisError, StaleMapError
from meristem.mask import dead_units
from meristem.prune import Magnitude, Polarization, Removal, Slimming, fold, most_within, removals, silence
from meristem.signals import View


def normed() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    return net, torch.randn(8, 4, dtype=torch.float64)


class Attention(nn.Module):
    def __init__(self, head: int = 8) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(*sizes) for sizes in ((8, 16), (8, 16), (8, 16), (16, 4)))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SharedSize(nn.Module):
    """The value is the query, too: what reads its units reads only a part of what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        return self.out(functional.scaled_dot_product_attention(q, self.k(x), q))


class Centred(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight - self.weight.mean(1, keepdim=True), self.bias)


def refused(axes: AxisMap, plans: list[Removal], kind: type[Exception], said: str, role: Role = Role.READS) -> None:
    before = {name: tensor.clone() for name, tensor in axes.model.state_dict().items()}
    with pytest.raises(kind, match=said):
        silence(axes, plans, role)
    assert all(torch.equal(tensor, before[name]) for name, tensor in axes.model.state_dict().items())


CALLS = {
    "silence": lambda axes: silence(axes, [Removal(axes.editable[0], (2,))]),
    "removals": lambda axes: removals(axes, 0.5),
    "fold": lambda axes: fold(axes),
    "View": lambda axes: View(axes).tensors,
    "scores": lambda axes: Magnitude().scores(View(axes), axes.editable[0]),
    "dead units": lambda axes: dead_units(axes),
    "slimming": lambda axes: Slimming()(axes),
    "clamp": lambda axes: Polarization().clamp(axes),
    "trials": lambda axes: most_within(axes, lambda n: [Removal(axes.editable[0], tuple(range(n)))], 3, lambda: 0, 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_map_from_before_an_edit_is_refused(name: str) -> None:
    """It zeroed another unit than was meant, or ended in an IndexError or a RuntimeError."""
    net, x = normed()
    old = meristem.trace(net, x)
    new = Edit(old).prune("0", [0]).commit().axes
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(StaleMapError, match="trace the model again"):
        CALLS[name](old)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    CALLS[name](new)


@pytest.mark.parametrize("units", [(99,), (-1,), (0, 6), (0, 1, 2, 3, 4, 5)])
def test_units_that_there_are_not(units: tuple[int, ...]) -> None:
    net, x = normed()
    axes = meristem.trace(net, x)
    refused(axes, [Removal(axes["0"], (1,)), Removal(axes["0"], units)], EditError, "unit")


def test_plans_of_another_map_and_of_a_frozen_axis() -> None:
    net, x = normed()
    old = meristem.trace(net, x)
    new = Edit(old).prune("0", [0]).commit().axes
    refused(new, [Removal(old["0"], (2,))], EditError, "not of this map")
    refused(new, [Removal(new["3"], (2,))], FrozenAxisError, "may not be edited")


def test_units_that_act_without_being_read() -> None:
    """Silenced by what reads the values, queries and keys would still meet over them."""
    torch.manual_seed(0)
    net, x = SharedSize().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    axes = meristem.trace(net, x)
    (axis,) = (axis for axis in axes.editable if axis.size == 8)
    refused(axes, [Removal(axis, (0,))], EditError, "two activations are contracted")


def test_heads_and_values_are_silenced_as_they_are_removed() -> None:
    torch.manual_seed(0)
    net, x = Attention().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    axes = meristem.trace(net, x)
    contracted = [axis for axis in axes.editable if Coupling.BILINEAR in axis.couplings]
    others = [axis for axis in axes.editable if axis not in contracted]
    assert contracted
    assert others
    for axis in contracted:
        refused(axes, [Removal(axis, (0,))], EditError, "cannot be silenced")
    for axis in others:
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        (plan,) = silence(axes, [Removal(axis, (0,))])
        _same_when_carried_out(net, axes, plan, x)
        net.load_state_dict(before)


def _same_when_carried_out(net: nn.Module, axes: AxisMap, plan: Removal, x: Tensor) -> None:
    silent = net(x)
    with meristem.edit.trial(axes, [meristem.edit.Change(plan.axis, plan.gather, meristem.edit.ZeroFanOut())]):
        torch.testing.assert_close(net(x), silent, rtol=0, atol=1e-12)


def _axis(net: nn.Module, x: Tensor) -> tuple[AxisMap, Axis]:
    axes = meristem.trace(net, x)
    return axes, next(axis for axis in axes.editable if axis.size == 6)


def test_readers_that_are_normalized_over_units() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Centred(6, 3)).double(), torch.randn(8, 4, dtype=torch.float64)
    axes, axis = _axis(net, x)
    refused(axes, [Removal(axis, (0,))], EditError, "zeros do not stay zeros")


def test_weight_norm() -> None:
    """Readers' columns of zeros are zeros; filters of zeros are 0 / 0, which was NaN in the whole model."""
    torch.manual_seed(0)
    norm, x = parametrizations.weight_norm, torch.randn(8, 4, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), norm(nn.Linear(6, 3))).double()
    axes, axis = _axis(net, x)
    (plan,) = silence(axes, [Removal(axis, (0,))])
    _same_when_carried_out(net, axes, plan, x)
    net = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)).double()
    axes, axis = _axis(net, x)
    refused(axes, [Removal(axis, (0,))], EditError, "0 / 0", Role.PRODUCES)
