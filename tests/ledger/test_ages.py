"""Newborn weights: none is sold before its time, and how old they are is known through edits and files."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from meristem.axes import trace
from meristem.edit import Commit, Edit, Gather
from meristem.edit.indices import Along
from meristem.errors import ConfigError
from meristem.grow import ZeroFanOut
from meristem.ledger import Account, Exchange, Weights
from meristem.mask import RigL, Sparse, Static, Uniform
from meristem.plasticity import Plasticity
from meristem.schedule import Every
from meristem.signals import View
from tests.ledger.models import conv, mlp, recorded, trained

OLDEST = torch.iinfo(torch.int64).max


def masked(net: nn.Module) -> tuple[torch.optim.Optimizer, Sparse]:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    return optimizer, Sparse(net, optimizer, Static(density=0.5, distribution=Uniform()))


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


@pytest.mark.parametrize("age", [0, 10, 11, 25])
def test_a_weight_is_sold_once_it_is_old_enough_and_not_before(age: int) -> None:
    net, x, y = conv()
    optimizer, sparse = masked(net)
    plasticity = Plasticity(
        net,
        optimizer,
        x[:1],
        schedule=Every(10, exchange=0.3),
        exchange=Exchange([Weights(sparse, age=age)]),
        follow=[sparse],
    )
    born = {name: torch.full(mask.shape, -1000) for name, mask in sparse.masks.items()}
    youngest, before = [], {name: mask.clone() for name, mask in sparse.masks.items()}
    for step in range(1, 61):
        plasticity.step(stepped(net, optimizer, x, y))
        for name, mask in sparse.masks.items():
            youngest += (step - born[name][before[name] & ~mask]).tolist()
            born[name][mask & ~before[name]] = step
            before[name] = mask.clone()
            there, ages = mask & (born[name] > 0), sparse.ages(name)
            assert torch.equal(ages[there], step - born[name][there])
            assert (ages[mask & ~there] == OLDEST).all()
    assert min(youngest) == max(10, -(-age // 10) * 10)


def test_weights_of_newborn_units_are_as_young_as_these() -> None:
    net, x, y = trained(mlp)
    _, sparse = masked(net)
    axes = trace(net, x[:1])
    market = Weights(sparse, age=7)
    seen = recorded(axes, market.needs(axes, axes.editable, 1e9), x, y)
    ages = torch.full((8,), OLDEST)
    ages[2], ages[5] = 6, 7
    view = View(axes, signals=seen.signals, ages={"0": ages})
    ladders = market.offers(view, axes.editable, Account(axes, sparse.masks), 1e9)
    sold = {one.key.where: {m for lot in one.lots for m in lot.members} for one in ladders if one.key.kind == "death"}
    for name, along in (("0.weight", 0), ("2.weight", 1)):
        there = set(sparse.masks[name].reshape(-1).nonzero().flatten().tolist())
        index = torch.arange(sparse.masks[name].numel()).reshape(sparse.masks[name].shape)
        young = set(index.select(along, 2).flatten().tolist())
        assert there & young
        assert sold[name] == there - young


def rewired(net: nn.Module, sparse: Sparse, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Some weights are one step old, some two, others as old as the net."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        sparse.rewire({n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in sparse.masks.items()})
        stepped(net, optimizer, x, y)


def test_ages_follow_edits_of_units_and_files() -> None:
    net, x, y = mlp()
    optimizer, sparse = masked(net)
    rewired(net, sparse, optimizer, x, y)
    ages = {name: sparse.ages(name) for name in sparse.masks}
    assert all({1, 2, OLDEST} == set(found.flatten().tolist()) for found in ages.values())
    edit = Edit(trace(net, x[:1]), optimizer, [sparse])
    edit.gather("0", Gather.keep(8, [0, 3, 5]))
    edit.gather("2", Gather.grow(10, 2), ZeroFanOut())
    edit.commit()
    assert torch.equal(sparse.ages("0.weight"), ages["0.weight"][[0, 3, 5]])
    assert torch.equal(sparse.ages("2.weight")[:10], ages["2.weight"][:, [0, 3, 5]])
    assert (sparse.ages("2.weight")[10:] == OLDEST).all()  # their units are young

    known = {name: sparse.ages(name) for name in sparse.masks}
    state = json.loads(json.dumps(sparse.state_dict()))
    other = copy.deepcopy(net)
    _, again = masked(other)
    again.load_state_dict(state)
    assert all(torch.equal(again.ages(name), found) for name, found in known.items())
    assert again.state_dict() == state


def test_ages_go_by_new_names_when_layers_come_and_go() -> None:
    net, x, y = mlp()
    optimizer, sparse = masked(net)
    rewired(net, sparse, optimizer, x, y)
    ages = sparse.ages("2.weight")
    net.insert(2, nn.Linear(8, 8).double())
    axes = trace(net, x[:1])
    moved = {f"{old}.{leaf}": f"{new}.{leaf}" for old, new in ((0, 0), (2, 3)) for leaf in ("weight", "bias")}
    came = Along.of(torch.tensor([0, 1, 2, 3, -1, 5, 6, 4]), torch.device("cpu"))  # a unit went, another one came
    sparse.after(Commit(axes, {"axes": [], "depth": {}}, {}, (), moved, followed={"3.weight": {1: came}}))
    found = sparse.ages("3.weight")
    assert torch.equal(found[:, [0, 1, 2, 3, 5, 6, 7]], ages[:, [0, 1, 2, 3, 5, 6, 4]])
    assert (found[:, 4] == OLDEST).all()
    assert (sparse.ages("2.weight") == OLDEST).all()
    assert set(sparse.state_dict()["first"]) == {"0.weight", "3.weight"}


def test_only_rewiring_from_outside_is_remembered() -> None:
    net, x, y = mlp()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sparse = Sparse(net, optimizer, RigL(density=0.5, interval=1, end=10))
    for _ in range(3):
        stepped(net, optimizer, x, y)
    assert sparse.state_dict()["first"] == {}
    assert all((sparse.ages(name) == OLDEST).all() for name in sparse.masks)
    state = sparse.state_dict()
    del state["first"]  # as older files have it
    sparse.load_state_dict(state)


def test_a_negative_age_is_refused() -> None:
    _, sparse = masked(mlp()[0])
    with pytest.raises(ConfigError, match="age of at least 0"):
        Weights(sparse, age=-1)
