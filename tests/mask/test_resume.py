"""Sparse training goes on from a saved state, in whatever order all of it is loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Edit, extra_of
from meristem.errors import CheckpointError, ConfigError
from meristem.mask import (
    METHODS,
    NM,
    SET,
    SNFS,
    SNIP,
    DeepR,
    GradualMagnitude,
    GraNet,
    IterativeMagnitude,
    Method,
    RigL,
    Sparse,
    Static,
    TopKAST,
)
from tests.mask.models import batches, loss_of, mlp, train

RIGL = RigL(density=0.3, end=14, interval=3)
SHORT = (
    RIGL,
    SET(density=0.3, interval=4),
    SNFS(density=0.3, interval=4, end=14),
    GradualMagnitude(density=0.5, end=9, interval=2, distribution=NM(m=4)),
    GraNet(density=0.3, end=9, last=14, interval=2),
    IterativeMagnitude(interval=6, rewind=2, rounds=3),
    DeepR(density=0.3, noise=1e-2, penalty=1e-2),
    TopKAST(density=0.3, backward=0.5, interval=2),
)
ALL = {type(method).__name__: method for method in (*METHODS, *SHORT)}


def build(seed: int = 9) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    net = mlp(seed)
    return net, torch.optim.AdamW(net.parameters(), lr=0.01)


def begun(method: Method) -> tuple[nn.Sequential, torch.optim.Optimizer, Sparse]:
    net, optimizer = build(0)
    return net, optimizer, Sparse(net, optimizer, method, seed=3, closure=lambda: loss_of(net, batches(1)[0]))


def saved(net: nn.Module, optimizer: torch.optim.Optimizer, sparsity: Sparse) -> tuple[Any, ...]:
    """Copies of all there is to save."""
    return *copy.deepcopy((net.state_dict(), optimizer.state_dict())), json.loads(json.dumps(sparsity.state_dict()))


@pytest.mark.parametrize("at", [1, 6, 9])
@pytest.mark.parametrize("name", ALL)
def test_model_then_optimizer_then_masks(name: str, at: int) -> None:
    net, optimizer, sparsity = begun(ALL[name])
    train(net, optimizer, batches(16)[:at])
    weights, memory, state = saved(net, optimizer, sparsity)
    losses = train(net, optimizer, batches(16)[at:])
    other, again = build()
    other.load_state_dict(weights)
    again.load_state_dict(memory)
    resumed = Sparse(other, again, ALL[name], state=state)  # neither a seed nor a closure
    assert resumed.state_dict() == state
    assert train(other, again, batches(16)[at:]) == losses
    assert resumed.state_dict() == sparsity.state_dict()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))


def test_one_file_after_structural_edits(tmp_path: Path) -> None:
    net, optimizer, sparsity = begun(RIGL)
    axes = meristem.trace(net, batches(1)[0])
    train(net, optimizer, batches(16)[:4])
    commit = Edit(axes, optimizer, follow=[sparsity]).grow("0", 3).prune("2", [1, 5]).commit()
    meristem.save(tmp_path / "run", commit.axes, optimizer, extra=sparsity.state_dict())
    losses = train(net, optimizer, batches(16)[4:])
    other, again = build()
    with pytest.raises(CheckpointError, match="another model, load that first"):
        Sparse(other, again, RIGL, state=extra_of(tmp_path / "run"))
    assert not again._optimizer_step_pre_hooks
    meristem.load(tmp_path / "run", other, batches(1)[0], optimizers=again)
    Sparse(other, again, RIGL, state=extra_of(tmp_path / "run"))
    assert train(other, again, batches(16)[4:]) == losses


@pytest.mark.parametrize("name", ["RigL", "DeepR", "TopKAST", "SNFS", "Static"])
@pytest.mark.parametrize("order", ["wos", "ows", "wso", "osw", "swo", "ws", "os", "s"])
def test_any_order_will_do(name: str, order: str) -> None:
    """Weights, optimizer, the object itself, and its state: what the object's own masks silenced comes back."""
    net, optimizer, sparsity = begun(ALL[name])
    train(net, optimizer, batches(7))
    weights, memory, state = saved(net, optimizer, sparsity)
    output = net(batches(1)[0])
    losses = train(net, optimizer, batches(5))
    other, again = build()
    steps = {
        "w": lambda: other.load_state_dict(weights),
        "o": lambda: again.load_state_dict(copy.deepcopy(memory)),
        "s": lambda: Sparse(other, again, ALL[name], seed=1),
    }
    built = None
    for step in order:
        found = steps[step]()
        built = found if step == "s" else built
    assert built is not None
    built.load_state_dict(state)
    for step in "wo":
        if step not in order:
            steps[step]()
    assert torch.equal(other(batches(1)[0]), output)
    assert train(other, again, batches(5)) == losses
    assert built.state_dict() == sparsity.state_dict()


def test_other_weights_get_the_saved_masks() -> None:
    """Those of the net that the state is loaded into, none of which is lost that the saved masks have."""
    net, optimizer, sparsity = begun(RIGL)
    train(net, optimizer, batches(5))
    other, again = build()
    fresh = {name: p.detach().clone() for name, p in other.named_parameters()}
    Sparse(other, again, RIGL, seed=1).load_state_dict(sparsity.state_dict())
    for name, mask in sparsity.masks.items():
        assert torch.equal(other.get_parameter(name), fresh[name] * mask)


def test_going_back_in_the_same_run() -> None:
    net, optimizer, sparsity = begun(RIGL)
    train(net, optimizer, batches(5))
    weights, memory, state = saved(net, optimizer, sparsity)
    losses = train(net, optimizer, batches(4))
    net.load_state_dict(weights)
    optimizer.load_state_dict(memory)
    sparsity.load_state_dict(state)
    assert train(net, optimizer, batches(4)) == losses


def test_other_states_are_refused_before_anything_is_changed() -> None:
    _, _, sparsity = begun(RIGL)
    net, optimizer = build()
    before = copy.deepcopy(net.state_dict())
    for state, reason in ((sparsity.state_dict(), "is of RigL"), ({"method": "Static"}, "no state")):
        with pytest.raises(CheckpointError, match=reason):
            Sparse(net, optimizer, Static(), state=state)
    with pytest.raises(ConfigError, match="closure"):
        Sparse(net, optimizer, SNIP())
    assert not optimizer._optimizer_step_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
