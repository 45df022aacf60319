"""What removed units gave on average stays: exactly where the readers are linear."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Edit
from meristem.errors import ConfigError, EditError
from meristem.prune import Compensated, Magnitude, Random, fold
from meristem.signals import View
from meristem.signals.direct import Recording
from tests.prune.table import cached, seen

HALF = torch.float64


def pruned(model: nn.Module, x: torch.Tensor, name: str, units: list[int], *, train: bool = False) -> nn.Module:
    """The model with compensated removal, from statistics of one pass over x. Edits the model."""
    axes = meristem.trace(model.eval(), x)
    criterion = Compensated(Random())
    assert criterion.undefined(axes, axes[name]) is None
    recording = Recording(axes, criterion.needs(axes, axes[name]))
    model.train(train)(x).sum().backward()
    plan = criterion.removal(View(axes, signals=recording.finish()), axes[name], units)
    assert plan.start is not None
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    return model.eval()


def seeded(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).to(HALF)
    for module in model.modules():
        getattr(module, "reset_parameters", lambda: None)()
    return model


def silent(layer: nn.Module, units: list[int], bias: float = 0.7) -> None:
    """These units of a layer are constant."""
    with torch.no_grad():
        layer.weight[units] = 0
        layer.bias[units] = bias


def test_constant_units_of_a_linear_reader_leave_no_trace():
    model, x = seeded(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(9, 4, dtype=HALF)
    silent(model[0], [1, 4])
    before = model(x)
    torch.testing.assert_close(pruned(model, x, "0", [1, 4])(x), before)
    assert model[2].weight.shape == (3, 4)


def test_the_mean_of_what_linear_readers_give_stays():
    model, x = seeded(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(9, 4, dtype=HALF)
    before = model(x).mean(0)
    plain = nn.Sequential(*[nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]).to(HALF)
    plain.load_state_dict(model.state_dict())
    Edit(meristem.trace(plain, x)).prune("0", [0, 2, 5]).commit()
    torch.testing.assert_close(pruned(model, x, "0", [0, 2, 5])(x).mean(0), before)
    assert float((plain(x).mean(0) - before).detach().abs().max()) > 1e-3


def test_flattened_maps_have_a_mean_for_every_position():
    model = seeded(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    x = torch.randn(7, 1, 6, 6, dtype=HALF)
    before = model(x).mean(0)
    torch.testing.assert_close(pruned(model, x, "0", [1])(x).mean(0), before)


def test_padded_convolutions_are_exact_in_the_interior():
    model = seeded(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    x = torch.randn(5, 1, 9, 9, dtype=HALF)
    silent(model[0], [2])
    before, now = model(x), pruned(model, x, "0", [2])(x)
    torch.testing.assert_close(now[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1])
    assert float((now - before).detach().abs().max()) > 1e-3


def test_grouped_convolutions_have_a_mean_for_every_group():
    """Units within groups: one of each group goes, and each group has its own constant."""
    model = seeded(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(5, 1, 5, 5, dtype=HALF)
    model(x)
    model.to(HALF)
    silent(model[0], [1], 0.7)
    silent(model[0], [4], 1.9)
    axes = meristem.trace(model, x)
    inner = next(axis for axis in axes.editable if axis.size == 3)
    before = model(x)
    torch.testing.assert_close(pruned(model, x, inner.name, [1])(x), before)


def test_a_batch_normalization_takes_it_where_there_is_no_bias():
    model = seeded(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
                   nn.Flatten(), nn.Linear(75, 2))  # fmt: skip
    x = torch.randn(5, 1, 9, 9, dtype=HALF)
    silent(model[0], [0, 3])
    model(x)
    before = model.eval()(x)
    torch.testing.assert_close(pruned(model, x, "0", [0, 3])(x), before)


def test_units_that_weights_read_twice_and_produce_too():
    """A stream that its own readers write: what is shifted loses entries itself."""
    case = cached("stream, relu")
    criterion = Compensated(Magnitude())
    plan = criterion.removal(seen(case, criterion), case.axis, [0, 1])
    work = case.copied()
    assert plan.start is not None
    axes = Edit(work.axes).gather(work.axis, plan.gather, plan.start).commit().axes
    assert torch.isfinite(replace(work, axes=axes).loss())


@pytest.mark.parametrize("net", ["heads", "layer norm stream", "swiglu", "depthwise", "two readers, relu"])
def test_compensation_is_the_mean_times_the_weights_on_every_kind_of_axis(net):
    """Against silencing: the biases of all readers are those of the silenced net plus W E[h]."""
    case = cached(net)
    read: dict[str, torch.Tensor] = {}
    work = case.copied()
    for name, module in work.model.named_modules():
        module.register_forward_pre_hook(lambda m, args, n=name: read.update({f"{n}.weight": args[0].detach()}))
    work.loss()
    criterion = Compensated(Random())
    plan = criterion.removal(seen(case, criterion), case.axis, [0])
    assert plan.start is not None
    for place in case.axes.places[case.axis.index]:
        if meristem.axes.Role.READS not in place.roles:
            continue
        weight, x = case.model.get_parameter(place.layout.name).detach(), read[place.layout.name]
        mean = x.transpose(0, 1).flatten(1).mean(1) if weight.dim() > 2 else x.flatten(0, -2).mean(0)
        units = meristem.axes.units_along(place.layout.dims[place.dim], case.axis.index, case.axes.sizes)
        expected = (weight.flatten(2).sum(2) if weight.dim() > 2 else weight) @ (mean * (units == 0))
        shift = plan.start.shift(case.axes.layouts[place.layout.name.replace("weight", "bias")])
        torch.testing.assert_close(shift, expected)


def test_two_criteria_cannot_both_move_incumbents():
    case = cached("linear, relu")
    twice = Compensated(Compensated(Random()))
    with pytest.raises(EditError, match="moves incumbents itself"):
        twice.removal(seen(case, twice), case.axis, [0])


# ------------------------------------------------------------------ folding


def folded(model: nn.Module, x: torch.Tensor, threshold: float = 0.0) -> dict[str, tuple[int, ...]]:
    axes = meristem.trace(model, x)
    edit, plans = Edit(axes), fold(axes, threshold)
    for plan in plans:
        assert plan.start is not None
        edit.gather(plan.axis, plan.gather, plan.start)
    if plans:
        edit.commit()
    return {plan.axis.name: plan.units for plan in plans}


def normed() -> nn.Sequential:
    model = seeded(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(5, 3, 3),
                   nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))  # fmt: skip
    model(torch.randn(6, 1, 12, 12, dtype=torch.float64))
    model.to(HALF).eval()
    with torch.no_grad():
        model[1].bias.normal_()
        model[1].weight[[1, 3]] = 0
        model[1].weight[2] = 1e-3
        model[5].weight.zero_()
        model[5].bias.copy_(torch.tensor([1.0, -1.0, 2.0]))
    return model


def test_folding_leaves_no_trace_and_one_unit():
    model, x = normed(), torch.randn(4, 1, 12, 12, dtype=HALF)
    before = model(x)
    assert folded(model, x) == {"0": (1, 3), "4": (0, 1)}
    torch.testing.assert_close(model(x), before)
    assert model[4].weight.shape == (1, 3, 3, 3)


def test_folding_nearly_constant_units_moves_the_function_a_little():
    model, x = normed(), torch.randn(4, 1, 12, 12, dtype=HALF)
    with torch.no_grad():
        model[5].weight.fill_(1.0)
    before = model(x)
    assert folded(model, x, 0.01) == {"0": (1, 2, 3)}
    moved = float(((model(x) - before).abs().max() / before.abs().max()).detach())
    assert 1e-9 < moved < 1e-2


class Gated(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.gate = nn.Parameter(torch.full(shape, 3.0))
        nn.init.zeros_(self.norm.weight)
        nn.init.ones_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.gate * self.norm(self.first(x)).relu())


def test_what_scales_units_behind_batch_normalization_is_seen():
    for shape, expected in (((1,), {"first": (0, 1, 2)}), ((4,), {})):
        model, x = Gated(*shape).to(HALF).eval(), torch.randn(5, 3, dtype=HALF)
        before = model(x)
        assert folded(model, x) == expected
        torch.testing.assert_close(model(x), before)


def test_nothing_is_folded_where_nothing_is_constant():
    model, x = seeded(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3, dtype=HALF)
    assert folded(model.eval(), x) == {}
    with pytest.raises(ConfigError, match="threshold"):
        fold(meristem.trace(model, x), -1.0)


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_a_scale_before_the_norm_keeps_the_shift_from_its_running_mean():
    """The running mean was shifted by what stands before the scale."""
    torch.manual_seed(0)
    for scale, gone in ((nn.Identity(), 2), (Scale(3), 0)):
        first = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3, bias=False))
        net = nn.Sequential(*first, scale, nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
        net.eval().double()
        with torch.no_grad():
            net[1].weight[:2], net[1].bias[:] = 0.0, 0.5
        plans = fold(meristem.trace(net, torch.randn(2, 2, 9, 9, dtype=torch.float64)))
        assert sum(len(plan.units) for plan in plans) == gone
