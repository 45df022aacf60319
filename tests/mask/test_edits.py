"""Masks live through structural edits, checkpoints and resumed runs."""

import copy
import json
import random

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Commit, Edit, Gather, extra_of, load, save
from meristem.errors import CheckpointError, StaleMapError
from meristem.grow import Net2Wider, Paired, ZeroFanOut
from meristem.mask import (
    METHODS,
    SET,
    SNFS,
    DeepR,
    GradualMagnitude,
    GraNet,
    IterativeMagnitude,
    Masks,
    RigL,
    Sparse,
    Static,
    TopKAST,
)
from meristem.signals import View
from tests.mask.models import batches, convnet, loss_of, mlp, train

SHORT = {
    "RigL": RigL(density=0.3, end=14, interval=3),
    "SET": SET(density=0.3, interval=4),
    "SNFS": SNFS(density=0.3, interval=4, end=14),
    "GradualMagnitude": GradualMagnitude(density=0.3, end=9, interval=2),
    "GraNet": GraNet(density=0.3, end=9, last=14, interval=2),
    "IterativeMagnitude": IterativeMagnitude(interval=6, rewind=2, rounds=3),
    "DeepR": DeepR(density=0.3, noise=1e-2, penalty=1e-2),
    "TopKAST": TopKAST(density=0.3, backward=0.5, interval=2),
}
OTHERS = {type(m).__name__: m for m in METHODS if type(m).__name__ not in SHORT}


def start(method, net=None, seed=0):
    net = mlp() if net is None else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return net, optimizer, Sparse(net, optimizer, method, seed=seed, closure=lambda: loss_of(net, batches(1)[0]))


# ------------------------------------------------------------------ resuming


@pytest.mark.parametrize("name", [*SHORT, *OTHERS])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name, at):
    method = {**SHORT, **OTHERS}[name]
    net, optimizer, sparsity = start(method, seed=3)
    losses = train(net, optimizer, batches(16))
    first, second, before = start(method, seed=3)
    train(first, second, batches(16)[:at])
    saved = json.loads(json.dumps(before.state_dict()))
    weights, state = copy.deepcopy(first.state_dict()), copy.deepcopy(second.state_dict())
    other, optimizer2, after = start(method, net=mlp(seed=9))
    after.load_state_dict(saved)
    other.load_state_dict(weights)
    optimizer2.load_state_dict(state)
    assert train(other, optimizer2, batches(16)[at:]) == losses[at:]
    assert after.state_dict() == sparsity.state_dict()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))


def test_states_of_other_runs_are_refused():
    _, _, sparsity = start(RigL(density=0.3, end=14))
    state = sparsity.state_dict()
    _, _, other = start(Static())
    with pytest.raises(CheckpointError, match="of RigL"):
        other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="no state"):
        sparsity.load_state_dict({"method": "RigL"})
    damaged = copy.deepcopy(state)
    damaged["masks"]["0.weight"]["data"] = "c-"
    with pytest.raises(CheckpointError, match="saved tensor"):
        sparsity.load_state_dict(damaged)
    wrong = copy.deepcopy(state)
    wrong["masks"]["9.weight"] = wrong["masks"].pop("0.weight")
    with pytest.raises(CheckpointError, match="another model"):
        sparsity.load_state_dict(wrong)
    assert sparsity.state_dict() == state


def test_one_file_holds_everything(tmp_path):
    net, optimizer, sparsity = start(SHORT["RigL"])
    axes = meristem.trace(net, batches(1)[0])
    train(net, optimizer, batches(16)[:4])
    commit = Edit(axes, optimizer).grow("0", 3).prune("2", [1, 5]).commit()
    sparsity.after(commit)
    save(tmp_path / "run", commit.axes, optimizer, extra={"sparsity": sparsity.state_dict()})
    losses = train(net, optimizer, batches(16)[4:])
    other, optimizer2, after = start(SHORT["RigL"], net=mlp(seed=9))
    load(tmp_path / "run", other, batches(1)[0], optimizers=optimizer2)
    after.load_state_dict(extra_of(tmp_path / "run")["sparsity"])
    assert train(other, optimizer2, batches(16)[4:]) == losses


# ------------------------------------------------------------------ edits


def test_masks_are_gathered_like_their_weights():
    net = convnet()
    axes = meristem.trace(net, torch.randn(2, 3, 6, 6, dtype=torch.float64))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparsity = Sparse(net, optimizer, Static(density=0.4))
    old = {name: mask.clone() for name, mask in sparsity.masks.items()}
    edit = Edit(axes, optimizer).gather("0", Gather((5, -1, 0, 2, -1), (False, True, False, False, True)))
    sparsity.after(edit.prune("3", [0, 4]).commit())
    rows = [1, 2, 3, 5]
    new = sparsity.masks
    assert torch.equal(new["0.weight"][[0, 2, 3]], old["0.weight"][[5, 0, 2]])
    assert new["0.weight"][[1, 4]].all()
    assert torch.equal(new["3.weight"][:, [0, 2, 3]], old["3.weight"][rows][:, [5, 0, 2]])
    assert new["3.weight"][:, [1, 4]].all()
    flat = old["6.weight"].view(5, 6, 16)[:, rows]
    assert torch.equal(new["6.weight"], flat.reshape(5, 64))
    for name, mask in new.items():
        assert mask.shape == net.get_parameter(name).shape
        assert not net.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("share", [None, 0.5, 0.0])
def test_newborns_get_a_density(share):
    net, optimizer = mlp(), None
    axes = meristem.trace(net, batches(1)[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsity = Sparse(net, optimizer, Static(density=0.25), newborns=share)
    layers = sparsity.masks.densities
    sparsity.after(Edit(axes, optimizer).grow("0", 5).commit())
    for name, fresh in (
        ("0.weight", sparsity.masks["0.weight"][16:]),
        ("2.weight", sparsity.masks["2.weight"][:, 16:]),
    ):
        wanted = layers[name] if share is None else share
        assert int(fresh.sum()) == round(wanted * fresh.numel())
    assert not net[0].weight[16:][~sparsity.masks["0.weight"][16:]].any()


@pytest.mark.parametrize("method", [ZeroFanOut(), Net2Wider(), Paired()], ids=lambda m: type(m).__name__)
def test_growth_stays_exact(method):
    net, optimizer, sparsity = start(SHORT["RigL"])
    x = batches(1)[0]
    axes = meristem.trace(net, x)
    before = net(x)
    growth = method.propose(View(axes), axes["0"], 4)
    commit = Edit(axes, optimizer).gather(growth.axis, growth.gather, growth.start).commit()
    sparsity.after(commit)
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)


def test_a_dynamic_method_returns_to_its_density():
    net, optimizer, sparsity = start(RigL(density=0.2, end=50, interval=2))
    axes = meristem.trace(net, batches(1)[0])
    wanted = sparsity.masks.densities["2.weight"]
    sparsity.after(Edit(axes, optimizer).grow("0", 8).prune("2", [3]).commit())
    assert sparsity.masks.densities["2.weight"] > wanted + 0.1
    train(net, optimizer, batches(2))
    count = sparsity.masks["2.weight"].numel()
    assert int(sparsity.masks["2.weight"].sum()) == round(wanted * count)


@pytest.mark.parametrize("name", SHORT)
def test_training_goes_on_through_many_edits(name):
    net, optimizer, sparsity = start(SHORT[name])
    x = batches(1)[0]
    axes, choice = meristem.trace(net, x), random.Random(0)
    for step in range(14):
        train(net, optimizer, batches(2))
        axis = axes[choice.choice(["0", "2"])]
        edit = Edit(axes, optimizer, seed=step)
        if choice.random() < 0.5:
            edit.grow(axis, choice.randint(1, 4))
        else:
            edit.prune(axis, choice.sample(range(axis.size), axis.size // 4))
        if choice.random() < 0.5:
            size = len(edit.changes[0].gather)
            edit.permute(axis, torch.randperm(size))
        commit = edit.commit()
        sparsity.after(commit)
        axes = commit.axes
        assert not commit.stale
        for key, mask in sparsity.masks.items():
            assert mask.shape == net.get_parameter(key).shape
            assert not net.get_parameter(key)[~mask].any()
    assert torch.isfinite(net(x)).all()


def test_forgotten_edits_are_noticed():
    net, optimizer, sparsity = start(SHORT["RigL"])
    axes = meristem.trace(net, batches(1)[0])
    first = Edit(axes, optimizer).prune("0", [1]).commit()
    with pytest.raises(StaleMapError, match="after"):
        train(net, optimizer, batches(1))
    sparsity.after(first)
    with pytest.raises(StaleMapError, match="followed already"):
        sparsity.after(first)
    optimizer.zero_grad()
    train(net, optimizer, batches(1))
    second = Edit(first.axes, optimizer).prune("0", [1]).commit()
    third = Edit(second.axes, optimizer).prune("0", [1]).commit()
    state = sparsity.state_dict()
    for commit, reason in ((second, "another one"), (third, "missed")):
        with pytest.raises(StaleMapError, match=reason):
            sparsity.after(commit)
    assert sparsity.state_dict() == state


def test_masks_alone_follow_too():
    net = mlp()
    axes = meristem.trace(net, batches(1)[0])
    source = torch.Generator().manual_seed(0)
    masks = Masks(net, {"2.weight": torch.rand(12, 16, generator=source) < 0.3})
    old = masks["2.weight"].clone()
    masks.after(Edit(axes).keep("0", [3, 4, 9]).commit())
    assert torch.equal(masks["2.weight"], old[:, [3, 4, 9]])
    assert masks.nonzeros == {"2.weight": int(old[:, [3, 4, 9]].sum())}


@pytest.mark.parametrize("name", SHORT)
def test_layers_come_and_go(name):
    net, optimizer, sparsity = start(SHORT[name])
    x = batches(1)[0]
    train(net, optimizer, batches(5))
    old = {key: mask.clone() for key, mask in sparsity.masks.items()}
    moved = {f"{i}.{leaf}": f"{j}.{leaf}" for i, j in ((0, 0), (2, 4)) for leaf in ("weight", "bias")}
    layers = [net[0], nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), net[2], nn.Tanh(), nn.Linear(12, 4)]
    del net[1:]
    net.extend(layer.double() for layer in layers[1:])
    axes = meristem.trace(net, x)
    sparsity.after(Commit(axes, {"axes": [], "depth": {}}, {}, (), moved))
    optimizer.param_groups[0]["params"] = list(net.parameters())
    assert list(sparsity.masks) == ["0.weight", "4.weight", "2.weight", "6.weight"]
    assert torch.equal(sparsity.masks["4.weight"], old["2.weight"])
    assert sparsity.masks["2.weight"].all()
    train(net, optimizer, batches(8))
    for key, mask in sparsity.masks.items():
        assert not net.get_parameter(key)[~mask].any()


def test_what_a_method_keeps_follows():
    net, optimizer, sparsity = start(TopKAST(density=0.3, backward=0.6))
    axes = meristem.trace(net, batches(1)[0])
    train(net, optimizer, batches(3))
    reserve = sparsity._kept.memory["reserve"]["2.weight"].clone()
    commit = Edit(axes, optimizer).gather("0", Gather((4, 7, -1), (False, False, True))).commit()
    sparsity.after(commit)
    moved = sparsity._kept.memory["reserve"]["2.weight"]
    assert torch.equal(moved[:, :2], reserve[:, [4, 7]])
    assert torch.equal(moved[:, 2], net[2].weight[:, 2])
    train(net, optimizer, batches(3))
