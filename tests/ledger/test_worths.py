"""What is promised, against what the loss does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from meristem.axes import trace
from meristem.edit import Change, Gather, ZeroFanOut, trial
from meristem.errors import SignalError
from meristem.grow import TINY
from meristem.ledger import Account, Exchange, Moves, Units, WeightMoves, Weights
from meristem.ledger.weights import birth_worths, death_worths
from meristem.mask import Sparse, Static
from meristem.prune import Taylor
from meristem.signals.direct import Recording
from tests.ledger.models import NETS, loss_of, recorded, trained


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.flatten().argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def moves_of(net: nn.Module, x: Tensor, y: Tensor, names) -> dict[str, Moves]:
    axes = trace(net, x[:1])
    view = recorded(axes, [WeightMoves(name) for name in names], x, y)
    return {name: view.recorded(WeightMoves(name)) for name in names}


def weights(net: nn.Module) -> list[str]:
    return [name for name, p in net.named_parameters() if p.dim() > 1]


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_drives_are_exact(name: str) -> None:
    net, x, y = trained(NETS[name])
    found = moves_of(net, x, y, weights(net))
    torch.nn.functional.cross_entropy(net(x), y).backward()
    h = x
    for path, module in net.named_children():
        if isinstance(module, nn.Linear):
            energy = h.square().mean(0).expand_as(module.weight)
        elif isinstance(module, nn.Conv2d):
            patches = unfold(h, module.kernel_size, module.dilation, module.padding, module.stride)
            energy = patches.square().sum(2).mean(0).reshape(module.weight[0].shape).expand_as(module.weight)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            moves = found[f"{path}.weight"]
            assert torch.allclose(moves.gradient, module.weight.grad, rtol=1e-10, atol=1e-14)
            assert torch.allclose(moves.square, module.weight.grad.square(), rtol=1e-10, atol=1e-18)
            assert torch.allclose(moves.drive, energy, rtol=1e-10)
        h = module(h)


def test_a_birth_is_the_best_move_in_least_squares() -> None:
    net, x, y = trained(NETS["mlp"])
    moves = moves_of(net, x, y, ["2.weight"])["2.weight"]
    h = net[:2](x).detach()
    z = net[2](h).detach().requires_grad_()
    (delta,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net[3:](z), y), z)
    wanted = -len(x) * delta
    for i, j in ((0, 1), (3, 2), (9, 7)):
        best = float(torch.linalg.lstsq(h[:, j : j + 1], wanted[:, i : i + 1]).solution)
        assert best == pytest.approx(float(-moves.gradient[i, j] / moves.drive[i, j]), rel=1e-9)
        assert birth_worths(moves)[i, j] == pytest.approx(float(-(delta[:, i] * h[:, j] * best).sum()), rel=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_births_of_weights_keep_their_promise(name: str) -> None:
    """The loss falls by what is promised, as the amplitude goes to zero; and ranks at amplitude 1 are right."""
    net, x, y = trained(NETS[name])
    parameter = weights(net)[1]
    weight = net.get_parameter(parameter)
    with torch.no_grad():
        absent = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        weight[absent] = 0
    moves = moves_of(net, x, y, [parameter])[parameter]
    worth, before = birth_worths(moves), loss_of(net, x, y)
    places = absent.nonzero()[:40]
    small, full = [], []
    for amplitude, found in ((1e-4, small), (1.0, full)):
        for place in map(tuple, places.tolist()):
            with torch.no_grad():
                weight[place] = -amplitude * moves.gradient[place] / moves.drive[place]
                found.append((before - loss_of(net, x, y)) / amplitude)
                weight[place] = 0
    promised = torch.stack([worth[place] for place in map(tuple, places.tolist())])
    alive = promised > 1e-9 * promised.max()
    assert torch.allclose(torch.tensor(small, dtype=torch.float64)[alive], promised[alive], rtol=1e-2)
    assert spearman(torch.tensor(full, dtype=torch.float64)[alive], promised[alive]) > 0.9


@pytest.mark.parametrize("name", NETS)
def test_deaths_of_weights_rank_like_what_they_do(name: str) -> None:
    net, x, y = trained(NETS[name])
    parameter = weights(net)[1]
    weight, before = net.get_parameter(parameter), loss_of(net, x, y)
    worth = death_worths(moves_of(net, x, y, [parameter])[parameter], weight.detach())
    done = []
    for place in map(tuple, torch.ones_like(weight).nonzero().tolist()):
        with torch.no_grad():
            kept = float(weight[place])
            weight[place] = 0
            done.append(abs(loss_of(net, x, y) - before))
            weight[place] = kept
    assert spearman(torch.tensor(done), worth) > 0.7


@pytest.mark.parametrize("name", NETS)
def test_births_of_units_keep_their_promise(name: str) -> None:
    net, x, y = trained(NETS[name])
    axes = trace(net, x[:1])
    amplitude = 1e-4
    market = Units(TINY(amplitude=amplitude), Taylor())
    most = axes.flops() / 3
    view = recorded(axes, market.needs(axes, axes.editable, most), x, y)
    ladders = {one.key: one for one in market.offers(view, axes.editable, Account(axes), most)}
    before = loss_of(net, x, y)
    for axis in axes.editable:
        lots = ladders["unit", "birth", axis.name].lots
        done = []
        for count in range(1, len(lots) + 1):
            plan = market.grow.propose(view, axis, count)
            with trial(axes, [Change(axis, plan.gather, plan.start)]):
                done.append(before - loss_of(net, x, y))
        promised = torch.tensor([lot.entry.worth for lot in lots], dtype=torch.float64).cumsum(0)
        assert torch.allclose(torch.tensor(done, dtype=torch.float64), promised, rtol=2e-2)


@pytest.mark.parametrize("name", NETS)
def test_deaths_of_units_rank_like_what_they_do(name: str) -> None:
    net, x, y = trained(NETS[name], 10)
    axes = trace(net, x[:1])
    market = Units(TINY(), Taylor())
    view = recorded(axes, market.needs(axes, axes.editable, 1e9), x, y)
    before, promised, done = loss_of(net, x, y), [], []
    for one in market.offers(view, axes.editable, Account(axes), 1e9):
        for lot in one.lots if one.key.kind == "death" else ():
            axis = axes.by_name[one.key.where]
            with trial(axes, [Change(axis, Gather.prune(axis.size, lot.members), ZeroFanOut())]):
                done.append(abs(loss_of(net, x, y) - before))
            promised.append(lot.entry.worth)
    assert spearman(torch.tensor(done), torch.tensor(promised)) > 0.7


def test_weights_that_no_call_uses_are_named() -> None:
    net, x, _ = NETS["mlp"]()
    with pytest.raises(SignalError, match=r"2\.weight"):
        Recording(trace(net, x[:1]), [WeightMoves("2.weight")]).finish()


def test_lots_hold_the_best_and_the_cheapest() -> None:
    net, x, y = trained(NETS["conv"])
    sparse = Sparse(net, torch.optim.SGD(net.parameters(), 0.1), Static(density=0.5))
    market = Weights(sparse, lots=5)
    axes = trace(net, x[:1])
    exchange = Exchange([market])
    view = recorded(axes, market.needs(axes, axes.editable, 1.0), x, y)
    account = exchange._account(axes)
    for one in market.offers(view, axes.editable, account, axes.flops() / 20):
        name, birth = one.key.where, one.key.kind == "birth"
        moves = view.recorded(WeightMoves(name))
        worths = birth_worths(moves) if birth else death_worths(moves, view.tensors[name])
        mask = sparse.masks[name]
        members = [m for lot in one.lots for m in lot.members]
        among = (~mask if birth else mask).flatten()
        assert among[members].all()
        rest = worths.flatten()[among].sort(descending=birth).values
        assert torch.equal(worths.flatten()[members], rest[: len(members)])
        assert len(one.lots) <= 5
        assert sum(lot.entry.cost for lot in one.lots) == pytest.approx(len(members) * account.weight(name))
        assert len(members) < int(mask.count_nonzero()) or birth
