"""Small nets in float64, and one recorded training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meristem.axes import AxisMap, trace
from meristem.edit import Commit, Edit
from meristem.ledger import Exchange, Trade
from meristem.mask import Sparse
from meristem.schedule import Demand
from meristem.signals import View
from meristem.signals.direct import Recording


def mlp() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A net of two hidden layers, inputs and labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 4)).double()
    return net, torch.randn(64, 6, dtype=torch.float64), torch.randint(4, (64,))


def conv() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Convolutions with padding and stride, a flattening, a hidden layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).double()
    return net, torch.randn(32, 2, 6, 6, dtype=torch.float64), torch.randint(3, (32,))


NETS = {"mlp": mlp, "conv": conv}


def trained(make, steps: int = 30) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A net on its way, so that gradients and weights mean something."""
    net, x, y = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.2)
    for _ in range(steps):
        cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, x, y


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(cross_entropy(net(x), y))


def recorded(axes: AxisMap, statistics, x: Tensor, y: Tensor, closure: bool = False) -> View:
    """What a method sees after one pass."""
    recording = Recording(axes, statistics)
    recording.closing()
    net = axes.model
    cross_entropy(net(x), y).backward()
    net.zero_grad()
    return View(axes, signals=recording.finish(), closure=(lambda: cross_entropy(net(x), y)) if closure else None)


def traded(exchange: Exchange, net: nn.Module, x: Tensor, y: Tensor, demand: Demand, closure: bool = False):
    """The map, and what an exchange comes to after one recorded pass."""
    axes = trace(net, x[:1])
    exchange.require(axes, axes.editable)
    view = recorded(axes, exchange.needs(axes, axes.editable, demand), x, y, closure)
    return axes, exchange.trade(view, axes.editable, demand)


def carried_out(axes: AxisMap, trade: Trade, optimizer, sparse: Sparse | None = None) -> Commit | None:
    """Do what a trade says."""
    commit = None
    if trade.plans:
        edit = Edit(axes, optimizer, [] if sparse is None else [sparse])
        for plan in trade.plans:
            edit.gather(plan.axis, plan.gather, *(() if plan.start is None else (plan.start,)))
        commit = edit.commit()
    for rewiring in trade.rewirings:
        rewiring.after(commit)
    return commit
