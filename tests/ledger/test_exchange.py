"""Exchanges: what changes hands, within the budget, at units and weights at once, while a net trains."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from meristem.allocate import Limits, Turnover
from meristem.axes import trace
from meristem.edit import Edit
from meristem.errors import ConfigError, EditError
from meristem.grow import TINY, GradMax, Net2Wider, Splitting
from meristem.ledger import Account, Exchange, Units, Weights
from meristem.mask import Sparse, Static, Uniform
from meristem.plasticity import Plasticity
from meristem.prune import Magnitude, Protect, Removal, Taylor
from meristem.schedule import Budget, Demand, Every
from tests.ledger.models import NETS, carried_out, conv, loss_of, mlp, recorded, traded, trained

SHARE = Demand("exchange", 0.2)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)


def sparsity(net: nn.Module, optimizer, density: float = 0.5) -> Sparse:
    return Sparse(net, optimizer, Static(density=density, distribution=Uniform()))


def smooth():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    return net, torch.randn(64, 6, dtype=torch.float64), torch.randint(4, (64,))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3])
@pytest.mark.parametrize("closure", [False, True])
def test_units_keep_to_the_budget(name: str, factor: float, closure: bool) -> None:
    net, x, y = trained(NETS[name])
    before = trace(net, x[:1]).flops()
    demand = Demand("exchange", 0.4, Budget(flops=factor * before))
    axes, trade = traded(Exchange([Units(TINY(), Taylor())]), net, x, y, demand, closure)
    assert trade.entries
    commit = carried_out(axes, trade, sgd(net))
    assert commit.axes.flops() == trade.flops[1] <= factor * before
    assert sum(e.cost for e in trade.entries if e.kind == "birth") <= 0.4 * before
    assert net(x).shape == (len(x), net[-1].out_features)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.2])
def test_units_and_weights_keep_to_the_budget(name: str, factor: float) -> None:
    net, x, y = trained(NETS[name])
    optimizer = sgd(net)
    sparse = sparsity(net, optimizer)
    before = Account(trace(net, x[:1]), sparse.masks).flops
    exchange = Exchange([Units(TINY(), Taylor()), Weights(sparse)])
    axes, trade = traded(exchange, net, x, y, Demand("exchange", 0.3, Budget(flops=factor * before)), True)
    assert {entry.level for entry in trade.entries} == {"unit", "weight"}
    commit = carried_out(axes, trade, optimizer, sparse)
    after = Account(commit.axes if commit else axes, sparse.masks).flops
    assert after <= trade.flops[1] + 1e-6 <= factor * before + 1e-6
    for parameter, mask in sparse.masks.items():
        assert not net.get_parameter(parameter).detach()[~mask].any()


def test_what_is_traded_lowers_the_loss() -> None:
    net, x, y = trained(mlp, 5)
    before = loss_of(net, x, y)
    axes, trade = traded(Exchange([Units(TINY(), Taylor())]), net, x, y, SHARE, True)
    worths = {kind: sum(e.worth for e in trade.entries if e.kind == kind) for kind in ("birth", "death")}
    carried_out(axes, trade, sgd(net))
    assert worths["birth"] > worths["death"] > 0
    assert loss_of(net, x, y) < before


def test_nothing_changes_hands_where_no_trade_pays() -> None:
    net, x, y = trained(smooth)  # behind ReLU, or unread, some weights are worth exactly nothing
    sparse = sparsity(net, sgd(net), 0.9)
    _, trade = traded(Exchange([Units(TINY(), Protect(Taylor(), axes=("*",)))]), net, x, y, SHARE)
    assert not trade
    assert trade.entries == ()
    assert trade.flops[0] == trade.flops[1]
    _, trade = traded(Exchange([Weights(sparse)], margin=1e12), net, x, y, SHARE)
    assert not trade


def test_weights_go_where_their_gradients_are() -> None:
    net, x, y = trained(conv)
    optimizer = sgd(net)
    sparse = sparsity(net, optimizer)
    before = {name: mask.clone() for name, mask in sparse.masks.items()}
    axes, trade = traded(Exchange([Weights(sparse)]), net, x, y, SHARE)
    assert not trade.plans
    carried_out(axes, trade, optimizer)
    births = sum(int((sparse.masks[name] & ~mask).sum()) for name, mask in before.items())
    deaths = sum(int((~sparse.masks[name] & mask).sum()) for name, mask in before.items())
    assert births == sum(e.count for e in trade.entries if e.kind == "birth") > 0
    assert deaths == sum(e.count for e in trade.entries if e.kind == "death") > 0
    born = [net.get_parameter(name).detach()[sparse.masks[name] & ~mask] for name, mask in before.items()]
    assert torch.cat(born).all()  # they make their move at once


def test_rewiring_follows_the_edit_of_units() -> None:
    net, x, y = trained(conv)
    optimizer = sgd(net)
    sparse = sparsity(net, optimizer)
    axes, trade = traded(Exchange([Units(TINY(), Taylor()), Weights(sparse)]), net, x, y, SHARE)
    (rewiring,) = trade.rewirings
    old = {name: net.get_parameter(name).detach().clone() for name in rewiring.masks}
    plans = {plan.axis.index: plan.gather for plan in trade.plans}
    assert plans
    carried_out(axes, trade, optimizer, sparse)
    for name, mask in rewiring.masks.items():
        kept = [torch.arange(n) for n in mask.shape]
        now = [torch.arange(n) for n in mask.shape]
        for dim, expression in enumerate(axes.layouts[name].dims):
            gather = plans.get(getattr(expression, "axis", -1))
            if gather is not None:
                kept[dim] = gather.index[~gather.newborn_mask]
                now[dim] = (~gather.newborn_mask).nonzero().flatten()
        if len(net.get_parameter(name).shape) == 2 and name.startswith("5"):
            continue  # its inputs are channels times positions
        new = net.get_parameter(name).detach()[torch.meshgrid(*now, indexing="ij")]
        grid = torch.meshgrid(*kept, indexing="ij")
        start = rewiring.starts.get(name, torch.zeros_like(old[name]))
        assert torch.equal(new, ((old[name] + start) * mask)[grid])


def test_births_and_deaths_on_one_axis_are_a_turnover() -> None:
    net, x, y = trained(mlp, 5)
    _, trade = traded(Exchange([Units(TINY(), Taylor())]), net, x, y, Demand("exchange", 0.5))
    assert any(isinstance(plan, Turnover) for plan in trade.plans)
    assert len({plan.axis.index for plan in trade.plans}) == len(trade.plans)


@pytest.mark.parametrize("method", [TINY(), Splitting()])
def test_limits_hold(method) -> None:
    net, x, y = trained(mlp)
    limits = {"0": Limits(minimum=6, maximum=10, multiple=2), "*": Limits(multiple=5)}
    units = Units(method, Taylor(), limits=limits)
    demand = Demand("exchange", 0.9, Budget(flops=1.2 * trace(net, x[:1]).flops()))
    axes, trade = traded(Exchange([units]), net, x, y, demand, True)
    commit = carried_out(axes, trade, sgd(net))
    sizes = {axis.name: axis.size for axis in (commit.axes if commit else axes).editable}
    assert 6 <= sizes["0"] <= 10
    assert sizes["0"] % 2 == 0
    assert sizes["2"] % 5 == 0
    for plan in trade.plans:
        assert not (isinstance(plan, Turnover) and isinstance(method, Splitting))


def test_rates_make_gradients_decreases_of_the_loss() -> None:
    net, x, y = trained(mlp)
    worths = []
    for rate in (0.1, 0.2):
        exchange = Exchange([Units(GradMax(), Protect(Taylor(), axes=("*",)), rate=rate)])
        demand = Demand("exchange", 0.4, Budget(flops=1.3 * trace(net, x[:1]).flops()))
        _, trade = traded(exchange, net, x, y, demand)
        worths.append(sum(entry.worth for entry in trade.entries))
    assert 0 < worths[0] == pytest.approx(worths[1] / 2)


def run(seed: int = 0, steps: int = 40, save_at: int | None = None, sparse: bool = True, budget=None, listen=1):
    """Train with an exchange every ten steps; the saved state, if asked for, and the end."""
    net, x, y = conv()
    optimizer = sgd(net)
    wired = sparsity(net, optimizer) if sparse else None
    plasticity = controller(net, optimizer, wired, x, seed, budget, listen)
    saved, events = None, []
    for step in range(1, steps + 1):
        events.append(one_step(plasticity, net, optimizer, x, y))
        if step == save_at:
            parts = {"plasticity": plasticity, "masks": wired}
            saved = (
                json.loads(json.dumps({k: v.state_dict() for k, v in parts.items() if v})),
                [
                    {k: v.clone() for k, v in net.state_dict().items()},
                    copy.deepcopy(optimizer.state_dict()),
                ],
            )
    return net, plasticity, wired, [event for event in events if event], saved


def controller(net, optimizer, wired, x, seed, budget, listen) -> Plasticity:
    markets = [Units(TINY(), Protect(Taylor(), age=5)), *([Weights(wired, age=15)] if wired else [])]
    schedule = Every(10, exchange=0.2)
    return Plasticity(
        net,
        optimizer,
        x[:1],
        schedule=schedule if budget is None else schedule.until(flops=budget),
        exchange=Exchange(markets),
        follow=[wired] if wired else [],
        seed=seed,
        listen=listen,
    )


def one_step(plasticity: Plasticity, net, optimizer, x, y):
    loss = cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return plasticity.step(loss, lambda: cross_entropy(net(x), y))


def test_a_budget_may_follow_a_schedule() -> None:
    net, x, _ = conv()
    flops = trace(net, x[:1]).flops()
    bounds = {10: 1.2, 20: 0.9, 30: 0.9, 40: 0.6}
    _, plasticity, _, events, _ = run(sparse=False, budget=lambda step: bounds.get(step, 1.0) * flops)
    assert [event.step for event in events] == [10, 20, 30, 40]
    for event in events:
        assert event.flops[1] <= bounds[event.step] * flops
        assert event.ledger
        births = sum(entry.count for entry in event.ledger if entry.kind == "birth")
        assert births == sum(event.births.values())
    assert plasticity.axes.flops() < 0.6 * flops


@pytest.mark.parametrize("listen", [1, 8])
def test_runs_repeat_and_resume_exactly(listen) -> None:
    first, _, masks, events, saved = run(save_at=25, listen=listen)
    again, _, _, _, _ = run(listen=listen)
    assert any(entry.level == "weight" for event in events for entry in event.ledger)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    net, x, y = conv()
    optimizer = sgd(net)
    wired = sparsity(net, optimizer)
    plasticity = controller(net, optimizer, wired, x, 0, None, listen)
    (state, (weights, moments)) = saved
    plasticity.load_state_dict(state["plasticity"])
    net.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    wired.load_state_dict(state["masks"])
    for _ in range(15):
        one_step(plasticity, net, optimizer, x, y)
    for a, b in zip(first.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(masks.masks[name], wired.masks[name]) for name in masks.masks)


def test_what_is_not_defined_is_refused() -> None:
    net, x, y = mlp()
    axes = trace(net, x[:1])
    with pytest.raises(ConfigError, match=r"Net2Wider.*Methods that do"):
        Units(Net2Wider(), Taylor())
    with pytest.raises(ConfigError, match=r"Magnitude.*no changes of the loss; those of Taylor"):
        Units(TINY(), Magnitude())
    with pytest.raises(ConfigError, match=r"Units\(rate"):
        Units(GradMax(), Taylor())
    with pytest.raises(ConfigError, match="leave out"):
        Units(TINY(), Taylor(), rate=0.1)
    with pytest.raises(ConfigError, match="above 0"):
        Units(GradMax(), Taylor(), rate=0.0)
    with pytest.raises(ConfigError, match="one for each level"):
        Exchange([])
    with pytest.raises(ConfigError, match="margin"):
        Exchange([Units(TINY(), Taylor())], margin=0)
    exchange = Exchange([Units(TINY(), Taylor())])
    with pytest.raises(ConfigError, match="flops only"):
        traded(exchange, net, x, y, Demand("exchange", 0.1, Budget(parameters=10)))
    with pytest.raises(ConfigError, match="share of today's"):
        exchange.needs(axes, axes.editable, Demand("exchange", {"0": 1}))
    normed = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    other = trace(normed, torch.randn(2, 3))
    with pytest.raises(EditError, match="TINY is not defined"):
        exchange.require(other, other.editable)
    sparse = Sparse(normed, torch.optim.SGD(normed.parameters(), 0.1), Static(density=0.5))
    with pytest.raises(ConfigError, match="another model"):
        Exchange([Weights(sparse)]).require(axes, axes.editable)


@pytest.mark.parametrize(("births", "deaths"), [(1, 3), (3, 1), (2, 2)])
def test_turnover_of_unequal_numbers_is_growth_and_removal(births: int, deaths: int) -> None:
    net, x, y = trained(mlp)
    axes = trace(net, x[:1])
    axis = axes["2"]
    view = recorded(axes, TINY().needs(axes, axis, births), x, y)
    growth = TINY().propose(view, axis, births)
    dead = tuple(sorted([7, 0, 4][:deaths]))
    plan = Turnover(growth, Removal(axis, dead), dict(enumerate(axes.sizes)))
    assert (plan.births, len(plan.gather)) == (births, axis.size + births - deaths)
    optimizer = sgd(net)
    edit = Edit(axes, optimizer)
    edit.gather(axis, plan.gather, plan.start)
    edit.commit()
    other, _, _ = trained(mlp)
    axes = trace(other, x[:1])
    edit = Edit(axes, sgd(other))
    edit.gather(axes["2"], growth.gather, growth.start)
    axes = edit.commit().axes
    edit = Edit(axes, [])
    edit.prune(axes["2"], dead)
    edit.commit()
    assert torch.allclose(net(x), other(x), atol=1e-12)
