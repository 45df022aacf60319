"""Growth makes layers denser for a while: every method that changes masks brings them back, also when it has ended."""

from __future__ import annotations

import pytest
import torch

import meristem
from meristem.edit import Edit
from meristem.mask import (
    METHODS,
    SET,
    SNFS,
    DeepR,
    GradualMagnitude,
    GraNet,
    IterativeMagnitude,
    Method,
    RigL,
    Sparse,
    TopKAST,
)
from tests.mask.models import batches, loss_of, mlp, train

DYNAMIC: dict[str, Method] = {
    "DeepR": DeepR(density=0.2),
    "RigL": RigL(density=0.2, end=500, interval=5),
    "RigL after its end": RigL(density=0.2, end=8, interval=5),
    "SET": SET(density=0.2, interval=5),
    "SET after its end": SET(density=0.2, interval=5, end=10),
    "SNFS": SNFS(density=0.2, interval=5, end=500),
    "SNFS after its end": SNFS(density=0.2, interval=5, end=10),
    "TopKAST": TopKAST(density=0.2, backward=0.4, interval=5),
    "GradualMagnitude": GradualMagnitude(density=0.2, end=25, interval=5),
    "GradualMagnitude after its end": GradualMagnitude(density=0.2, end=10, interval=5),
    "GraNet": GraNet(density=0.2, end=25, interval=5),
    "GraNet after its end": GraNet(density=0.2, end=10, interval=5),
    "GraNet while it exchanges": GraNet(density=0.2, end=10, last=500, interval=5),
    "IterativeMagnitude": IterativeMagnitude(interval=5, rounds=5, fraction=0.2752),
}


def pieces(method: Method):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    return net, optimizer, Sparse(net, optimizer, method, closure=lambda: loss_of(net, batches(1)[0]))


def test_these_are_all_that_change_masks() -> None:
    changing = {type(m).__name__ for m in METHODS if type(m).update is not Method.update}
    assert changing == {name.partition(" ")[0] for name in DYNAMIC}


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dynamic_method_returns_to_its_density(name: str) -> None:
    net, optimizer, sparsity = pieces(DYNAMIC[name])
    axes = meristem.trace(net, batches(1)[0])
    train(net, optimizer, batches(12))
    before = sparsity.masks.densities
    sparsity.after(Edit(axes, optimizer).grow("0", 16).commit())
    assert sparsity.masks.densities["2.weight"] > 0.4
    data = batches(14)
    train(net, optimizer, data)
    found, sizes = sparsity.masks.nonzeros, {layer: mask.numel() for layer, mask in sparsity.masks.items()}
    layers = {layer: round(before[layer] * size) for layer, size in sizes.items()}
    if name.partition(" ")[0] in ("TopKAST", "GradualMagnitude", "GraNet", "IterativeMagnitude"):
        assert sparsity.masks.density == pytest.approx(0.2, abs=0.025)  # GraNet: 0.2 of what there was at its end
    elif name.startswith("SNFS"):
        assert sum(found.values()) == sum(layers.values())
    else:
        assert found == layers
    assert all(not net.get_parameter(n)[~mask].any() for n, mask in sparsity.masks.items())
    if "after" in name:  # one update is enough, and then there are none
        updated, masks = sparsity.updated, {n: m.clone() for n, m in sparsity.masks.items()}
        train(net, optimizer, data)
        assert sparsity.updated == updated == 15
        assert all(torch.equal(mask, masks[n]) for n, mask in sparsity.masks.items())


def test_deep_r_drops_the_smallest_where_there_are_too_many() -> None:
    net, optimizer, sparsity = pieces(DeepR(density=0.3, noise=0.0, penalty=0.0))
    axes = meristem.trace(net, batches(1)[0])
    sparsity.after(Edit(axes, optimizer).grow("0", 8).commit())
    mask = sparsity.masks["2.weight"].clone()
    sign = sparsity._kept.memory["sign"]["2.weight"].sign()
    weight = net[2].weight.detach().clone()
    loss_of(net, batches(1)[0]).backward()
    theta = torch.where(sign == 0, weight.sign(), sign) * (weight - 0.05 * net[2].weight.grad)
    theta = torch.where(sign == 0, theta.abs(), theta)
    optimizer.step()
    new = sparsity.masks["2.weight"]
    assert int(new.sum()) < int(mask.sum())
    kept, gone = theta[new & mask], theta[mask & ~new]
    assert len(gone) > 0
    assert kept.min() >= gone.max()
