"""Operators between two layers that change every channel alone: newborns are followed through them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Explicit, Gather
from meristem.grow import SENN, TINY, GradMax, Method, NorthOpt, NorthPre, NorthSelect
from meristem.signals import entries
from tests.grow.sites import CLASSES, commit, decrease_along_the_line, make, objective, planned
from tests.signals.passes import heard


class Scaled(nn.Module):
    """A scale and a shift for every channel, and a number by which every channel is divided."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.divisor = nn.Parameter(torch.rand(4, 1, 1) + 0.5), nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.shift) / self.divisor


class PaddedChannels(nn.Module):
    """Channels of zeros in front and behind, as in shortcuts without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, 0, 1, 2))


class Beside(nn.Module):
    """Units stand beside others when their maps are pooled and padded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 3, 3)
        self.reader, self.last = nn.Conv2d(7, 3, 3), nn.LazyLinear(CLASSES)
        self.pool = nn.Sequential(nn.MaxPool2d(2, 1), nn.ReplicationPad2d(1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.cat([self.second(x), self.first(x).tanh()], 1))
        return self.last(self.reader(x).flatten(1))


class Net(nn.Sequential):
    """A convolution, something else, and a second convolution, which reads what it gives."""

    def __init__(self, *between: nn.Module, reads: int = 4, kernel: int = 3, **settings: object) -> None:
        last = nn.Conv2d(reads, 3, kernel, **settings)  # type: ignore[arg-type]
        super().__init__(nn.Conv2d(2, 4, 3), nn.Sequential(*between), last, nn.Flatten(), nn.LazyLinear(CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {
    "slopes": lambda: Net(nn.PReLU(4), nn.Tanh()),
    "one slope": lambda: Net(nn.Tanh(), nn.PReLU()),
    "scaled": lambda: Net(Scaled(), nn.Tanh()),
    "nearest": lambda: Net(nn.Tanh(), nn.Upsample(scale_factor=2)),
    "bilinear": lambda: Net(nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.Tanh()),
    "bicubic": lambda: Net(nn.Upsample(size=(7, 5), mode="bicubic", align_corners=True), nn.Tanh(), stride=2),
    "zeros": lambda: Net(nn.Tanh(), nn.ZeroPad2d((1, 2, 0, 1))),
    "cropped": lambda: Net(nn.Tanh(), nn.ZeroPad2d((-1, 0, 1, 0)), kernel=2),
    "circular": lambda: Net(nn.Tanh(), padding=1, padding_mode="circular"),
    "reflected": lambda: Net(nn.Tanh(), padding=1, padding_mode="reflect"),
    "replicated": lambda: Net(nn.Tanh(), padding=(2, 1), padding_mode="replicate"),
    "channels of zeros": lambda: Net(nn.Tanh(), PaddedChannels(), reads=7),
    "largest": lambda: Net(nn.Tanh(), nn.AdaptiveMaxPool2d(3)),
    "flattened": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(256, 5), nn.Tanh(),
        nn.Linear(5, CLASSES)
    ),
    "sequence": lambda: nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Upsample(scale_factor=2, mode="linear"), nn.Conv1d(4, 3, 3, 2), nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ),
    "beside others": Beside,
    "features": lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 3)),
}  # fmt: skip
SHAPES = {"sequence": (2, 9), "features": (5,)}


def built(net: str) -> tuple[nn.Module, Tensor, Tensor, str]:
    axis = "first" if net == "beside others" else "0"
    return make((lambda _: NETS[net](), SHAPES.get(net, (2, 6, 6)), axis), nn.Identity())


def born_gradients(model: nn.Module, name: str, size: int) -> Tensor:
    """Of the fan-ins, biases last, of all newborns behind that many units; one row each."""
    weight, bias = (model.get_parameter(f"{name}.{kind}").grad for kind in ("weight", "bias"))
    assert weight is not None
    assert bias is not None
    return torch.cat([weight[size:].flatten(1), bias[size:, None]], 1)


@pytest.mark.parametrize("net", NETS)
def test_candidate_gradient_is_that_of_inserted_newborns(net: str) -> None:
    """Newborns of which each has one entry of a fan-out, which is 1, next to no bias, and else nothing."""
    model, x, labels, name = built(net)
    axes, loss = meristem.trace(model, x), objective(model, x, labels)
    (batch,) = heard(axes, name, lambda: loss().backward())
    model.zero_grad()
    found, axis = batch.candidate_gradient, axes[name]
    count, size = len(found), axis.size
    fan_in = torch.zeros_like(found)
    fan_in[:, -1] = 1e-9  # where a kink at 0 has the slope above it
    values = entries(batch.fan_in, fan_in) | entries(batch.fan_out, torch.eye(count, dtype=x.dtype))
    meristem.Edit(axes).gather(axis, Gather.grow(size, count), Explicit("one entry each", values)).commit()
    loss().backward()
    expected = born_gradients(model, name, size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3, count, dtype=found.dtype, generator=generator)
    columns = torch.randn(3, found.shape[1], dtype=found.dtype, generator=generator)
    torch.testing.assert_close(batch.fan_in_gradient(rows), rows @ found)
    torch.testing.assert_close(batch.fan_out_gradient(columns), columns @ found.T)


@pytest.mark.parametrize("net", NETS)
def test_gradients_of_grad_max_are_what_is_predicted(net: str) -> None:
    model, x, labels, axis = built(net)
    loss = objective(model, x, labels)
    before = model(x).detach()
    axes, found, plan = planned(GradMax(), model, loss, x, axis, 2)
    commit(axes, plan)
    loss().backward()
    assert plan.births == 2
    squares = born_gradients(model, axis, found.size).square().sum(1)
    torch.testing.assert_close(squares, torch.tensor(plan.gains, dtype=torch.float64), rtol=1e-4, atol=1e-14)
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-5 if plan.inexact else 1e-12)


@pytest.mark.parametrize("net", NETS)
def test_gains_of_tiny_are_central_differences(net: str) -> None:
    plan, decrease = decrease_along_the_line(lambda: built(net), TINY(amplitude=1e-9))
    assert plan.births == 2
    assert decrease == pytest.approx(sum(plan.gains), rel=1e-3)
    assert decrease > 0


@pytest.mark.parametrize("method", [NorthOpt(), NorthPre(), NorthSelect(20), SENN(12, 2)], ids=repr)
@pytest.mark.parametrize("net", NETS)
def test_other_methods_that_follow_units_work(net: str, method: Method) -> None:
    model, x, labels, axis = built(net)
    axes, found, plan = planned(method, model, objective(model, x, labels), x, axis, 2)
    after = commit(axes, plan)
    assert plan.births
    assert after[axis].size == found.size + plan.births
    assert model(x).isfinite().all()


class Gate(nn.Module):
    """Every channel is multiplied by a number that it learns, but no number leaves newborns as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.InstanceNorm2d(4), "normalizes"),
        (nn.InstanceNorm2d(4, affine=True), "normalizes"),
        (nn.GroupNorm(4, 4), "normalizes"),
        (nn.ConstantPad2d(1, 0.5), "is not in proportion to what it is given"),
        (Gate(), "numbers that are not known before newborns are born"),
        (nn.Conv2d(4, 4, 3, groups=4), "with 1.0.weight that is drawn for newborns"),
        (nn.FractionalMaxPool2d(2, output_size=3), "is not known to leave units apart"),
    ],
    ids=str,
)
def test_what_is_refused_has_its_reason(between: nn.Module, reason: str) -> None:
    x = torch.randn(3, 2, 8, 8)
    model = Net(between)
    model(x)
    axes = meristem.trace(model, x)
    for method in (GradMax(), TINY()):
        assert reason in (method.undefined(axes, axes["0"]) or "")
