"""Layers in the ledger: what one is worth, and that trades of all levels keep to the budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meristem import depth
from meristem.axes import trace
from meristem.depth import Deepen, Shorten
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import TINY
from meristem.ledger import Account, Exchange, Layers, Units, Weights
from meristem.mask import Sparse, Static, Uniform
from meristem.plasticity import Plasticity
from meristem.prune import Protect, Taylor
from meristem.schedule import Budget, Demand, Every
from tests.ledger.models import traded


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Two stages of residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.first = nn.Sequential(Block(6, 4), Block(6, 4))
        self.between = nn.Linear(6, 8)
        self.second = nn.Sequential(Block(8, 5), Block(8, 5), Block(8, 5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.relu(self.between(self.first(self.stem(x))))))


def net() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    return Net().double(), torch.randn(32, 5, dtype=torch.float64), torch.randint(3, (32,))


def layers(rate: float = 1.0, criterion=None) -> Layers:
    return Layers(Deepen(depth.Silent()), Shorten(criterion or depth.BranchTaylor()), rate)


def test_a_birth_is_worth_a_step_of_gradient_descent() -> None:
    model, x, y = net()
    rate = 1e-4
    exchange = Exchange([layers(rate, depth.MeasuredLoss())])
    demand = Demand("exchange", 1.0, Budget(flops=10 * trace(model, x[:1]).flops()))
    axes, trade = traded(exchange, model, x, y, demand, True)
    (entry,) = (entry for entry in trade.entries if entry.kind == "birth")
    (change,) = trade.changes
    assert trade.flops[1] - trade.flops[0] == pytest.approx(entry.cost)
    old = set(map(id, model.parameters()))
    before = float(cross_entropy(model(x), y).detach())
    Edit(axes).depth(change).commit()
    loss = cross_entropy(model(x), y)
    assert float(loss.detach()) == pytest.approx(before, abs=1e-12)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if id(p) not in old and p.grad is not None:
                p -= rate * p.grad
    assert before - float(cross_entropy(model(x), y).detach()) == pytest.approx(entry.worth, rel=1e-2)


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize("sparse", [False, True])
def test_all_levels_keep_to_the_budget(factor: float, sparse: bool) -> None:
    model, x, y = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = Static(density=0.7, distribution=Uniform())
    wired = Sparse(model, optimizer, method) if sparse else None
    axes = trace(model, x[:1])
    bound = factor * Account(axes, wired.masks if wired else {}).flops
    markets = [Units(TINY(), Protect(Taylor(), age=2)), layers(10.0), *([Weights(wired)] if wired else [])]
    plasticity = Plasticity(
        model,
        optimizer,
        axes,
        schedule=Every(5, exchange=0.6).until(flops=bound),
        exchange=Exchange(markets),
        axes=lambda axis: axis.name.endswith("up"),
        follow=[wired] if wired else [],
    )
    levels = set()
    for _ in range(10):
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        event = plasticity.step(loss, lambda: cross_entropy(model(x), y))
        if event is not None:
            levels |= {entry.level for entry in event.ledger or ()}
            assert Account(plasticity.axes, wired.masks if wired else {}).flops <= bound + 1e-6
            assert model(x).shape == (32, 3)
    assert levels == {"unit", "layer", *(["weight"] if sparse else [])}


def test_what_changes_the_function_or_predicts_nothing_is_refused() -> None:
    model, x, _ = net()
    axes = trace(model, x[:1])
    with pytest.raises(ConfigError, match=r"BlockInfluence are no changes of the loss"):
        layers(criterion=depth.BlockInfluence())
    with pytest.raises(ConfigError, match="above 0"):
        layers(rate=0.0)
    with pytest.raises(ConfigError, match="preserves it"):
        Exchange([Layers(Deepen(depth.Plain()), Shorten(depth.BranchTaylor()), 1.0)]).require(axes, axes.editable)


def test_layers_and_branches_are_offered_together() -> None:
    """The best price of all: a block, a summand, or a part of a concatenation; the function stays."""
    model, x, y = net()
    several = (depth.Silent(), depth.Added(), depth.Appended(4))
    budget = Budget(flops=10 * trace(model, x[:1]).flops())
    prices = {}
    for what in (*several, several):
        exchange = Exchange([Layers(Deepen(what), Shorten(depth.BranchTaylor()), 1e-4)])
        axes, trade = traded(exchange, model, x, y, Demand("exchange", 1.0, budget), True)
        (entry,) = (entry for entry in trade.entries if entry.kind == "birth")
        prices[what] = entry.price
        if what is several:
            assert trade.flops[1] - trade.flops[0] == pytest.approx(entry.cost)
            before = model(x)
            births = [change for change in trade.changes if not isinstance(change, (depth.Remove, depth.RemoveBranch))]
            Edit(axes).depth(births[0]).commit()
            torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert prices[several] == max(prices[what] for what in several)
    assert len(set(prices.values())) == 3
