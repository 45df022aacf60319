"""Weights that are called several times in a forward pass: all calls count, each with its samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from meristem.axes import trace
from meristem.diagnose import Monitor, dead_fraction, dormant_fraction, effective_rank, probe
from meristem.signals import Activations, Proposals, SecondMoment, UnitActivity
from meristem.signals.reads import Reads
from tests.signals.passes import loss_of
from tests.signals.table import recorded


class Shared(nn.Module):
    """One encoder for few queries and many documents, and a second reader of the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.aside = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        q, d = torch.relu(self.up(queries)), torch.relu(self.up(documents))
        return self.down(q).sum(0) + self.down(d).sum(0) + self.aside(q).sum(0)


class Loop(nn.Module):
    """One cell, applied as often as the input is long."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            state = self.down(torch.tanh(self.up(state + step)))
        return self.head(state)


class Flattened(nn.Module):
    """Two images of different sizes, read position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(2, 3, 3), nn.Linear(3 * 16, 2)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        both = [torch.relu(self.up(x)).flatten(1) for x in (one, two)]
        return self.down(both[0]).sum(0) + self.down(both[1]).sum(0)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 5, dtype=torch.float64) - 1, torch.randn(40, 5, dtype=torch.float64) + 1


def shared() -> tuple[Shared, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return Shared().double(), batch()


def loss(y: Tensor) -> Tensor:
    return y.square().sum()


def test_all_calls_of_the_first_reader_count():
    model, args = shared()
    axes = trace(model, args)
    asked = UnitActivity("up"), Reads("up"), Activations("up"), SecondMoment("up")
    found = recorded(axes, asked, lambda: loss(model(*args)).backward())
    assert axes.paths[axes["up"].index][0].consumer.weight == "down.weight"
    z = [model.up(x) for x in args]
    q, d = map(torch.relu, z)
    delta = torch.cat(torch.autograd.grad(loss(model.down(q).sum(0) + model.down(d).sum(0) + model.aside(q).sum(0)), z))
    h = torch.cat([q, d]).detach()
    activity, read = found[asked[0]], found[asked[1]]["down.weight"]
    torch.testing.assert_close(activity.frequency, (h > 0.05).double().mean(0))
    torch.testing.assert_close(activity.size, h.mean(0))
    torch.testing.assert_close(activity.gradient, delta.abs().mean(0))
    torch.testing.assert_close(activity.size, read.size[0])
    torch.testing.assert_close(found[asked[2]], h.T @ h / len(h))
    u = nn.functional.pad(torch.cat(args), (0, 1), value=1.0)
    torch.testing.assert_close(found[asked[3]].matrix, u.T @ u / len(u))


def test_monitor_and_probe_agree():
    model, args = shared()
    axes = trace(model, args)
    h = torch.cat([torch.relu(model.up(x)) for x in args]).detach()
    monitor = Monitor(1, axes="up").begin(axes)
    loss(model(*args)).backward()
    monitor.step()
    torch.testing.assert_close(monitor.units["up"]["frequency"], (h > 0.05).double().mean(0))
    targets = torch.zeros(3, dtype=torch.float64)
    found = probe(axes, args, targets, lambda y, t: loss(y - t), axes="up", samples=0).axes["up"]
    assert found.dormant == dormant_fraction(h, 0.025)
    assert found.dead == dead_fraction(h)
    assert found.effective_rank == pytest.approx(effective_rank(h), rel=1e-12)


def test_candidates_are_seen_in_all_calls():
    model, args = shared()
    axes = trace(model, args)
    asked = Proposals("up", 3)
    found = recorded(axes, (asked,), lambda: loss(model(*args)).backward())[asked]
    z = torch.cat(args) @ found.incoming[:, :-1].T + found.incoming[:, -1]
    h = torch.cat([torch.relu(torch.cat([model.up(x) for x in args])), torch.relu(z)], 1).detach()
    torch.testing.assert_close(found.gram, h.T @ h / len(h))
    torch.testing.assert_close(found.mean, z.mean(0))
    torch.testing.assert_close(found.variance, z.var(0, correction=0))


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_loop_may_be_longer_than_the_traced_one(length):
    torch.manual_seed(0)
    model = Loop().double()
    axes = trace(model, torch.randn(4, 3, 4, dtype=torch.float64))
    x = torch.randn(4, length, 4, dtype=torch.float64)
    asked = UnitActivity("up"), Reads("up")
    seen: list[Tensor] = []
    handle = model.up.register_forward_hook(lambda *args: seen.append(args[2]) or args[2].retain_grad())
    found = recorded(axes, asked, lambda: loss_of(model(x)).backward())
    handle.remove()
    assert len(seen) == length
    h, delta = torch.cat(seen).detach().tanh(), torch.cat([z.grad for z in seen])
    torch.testing.assert_close(found[asked[0]].size, h.abs().mean(0))
    torch.testing.assert_close(found[asked[0]].gradient, delta.abs().mean(0))
    torch.testing.assert_close(found[asked[1]]["down.weight"].size[0], h.abs().mean(0))


def test_units_of_flattened_maps_have_a_number_at_each_position():
    torch.manual_seed(0)
    model = Flattened().double()
    args = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.randn(7, 2, 6, 6, dtype=torch.float64)
    axes = trace(model, args)
    found = recorded(axes, (UnitActivity("up"),), lambda: loss(model(*args)).backward())[UnitActivity("up")]
    h = torch.cat([torch.relu(model.up(x)) for x in args]).detach().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(found.size, h.mean(0))
    targets = torch.zeros(2, dtype=torch.float64)
    probed = probe(axes, args, targets, lambda y, t: loss(y - t), axes="up", samples=0).axes["up"]
    assert probed.effective_rank == pytest.approx(effective_rank(h), rel=1e-12)
