"""What is masked at all, layers without weights, and choices among many numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Commit
from meristem.errors import ConfigError
from meristem.mask import (
    ERK,
    METHODS,
    SNFS,
    DeepR,
    Distribution,
    Global,
    GradualMagnitude,
    Method,
    PerLayer,
    RigL,
    Sparse,
    Static,
    Uniform,
)
from meristem.mask.best import top
from meristem.mask.rewiring import grown, kept, outside
from tests.mask.models import batches, loss_of, mlp, train


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_masked_is_what_the_optimizers_hold(method: Method) -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.05, momentum=0.9)
    before = copy.deepcopy(net[0].state_dict())
    sparsity = Sparse(net, optimizer, method, closure=lambda: loss_of(net, batches(1)[0]))
    assert list(sparsity.masks) == ["2.weight"]
    train(net, optimizer, batches(4))
    assert all(torch.equal(value, before[name]) for name, value in net[0].state_dict().items())
    with pytest.raises(ConfigError, match="holds none"):
        Sparse(net, torch.optim.SGD(net[0].parameters(), lr=0.1), method, parameters="4.weight")


def test_layers_that_were_not_held_get_no_masks_by_an_edit_of_others() -> None:
    net, x = mlp(), batches(1)[0]
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.05, momentum=0.9)
    sparsity = Sparse(net, optimizer, DeepR(density=0.3))
    moved = {f"{i}.{leaf}": f"{j}.{leaf}" for i, j in ((0, 0), (2, 4), (4, 6)) for leaf in ("weight", "bias")}
    layers = [*net[:2], nn.Linear(16, 16).double(), nn.Tanh(), *net[2:]]
    del net[:]
    net.extend(layers)
    sparsity.after(Commit(meristem.trace(net, x), {"axes": [], "depth": {}}, {}, (), moved))
    assert list(sparsity.masks) == ["4.weight", "2.weight"]
    train(net, optimizer, batches(3))  # the new layer is in no optimizer: it has its density, and stays where it is
    assert sparsity.masks.nonzeros["2.weight"] == round(0.3 * 256)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: Static(density=0.002, distribution=d),
        lambda d: RigL(density=0.002, end=9, distribution=d),
        lambda d: SNFS(density=0.002, end=9, interval=2, distribution=d),
        lambda d: GradualMagnitude(density=0.002, end=9, distribution=d),
    ],
)
@pytest.mark.parametrize("distribution", [Uniform(), ERK(), Global(), PerLayer({"*": 0.002})], ids=repr)
def test_layers_without_weights_are_refused(make, distribution: Distribution) -> None:
    net = mlp()  # one weight of 560
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError, match=r"leaves (no weight of .*weight|1 weights, fewer than 1 for each layer)"):
        Sparse(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), make(distribution))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_sparse_momentum_empties_no_layer() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    sparsity = Sparse(net, optimizer, SNFS(density=0.01, end=99, interval=1, fraction=0.9))
    for x in batches(8):
        train(net, optimizer, [x])
        assert min(sparsity.masks.nonzeros.values()) >= 1


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("there", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("levels", [0, 4, 200])
def test_the_best_of_some_of_many(share: float, there: float, levels: int) -> None:
    source = torch.Generator().manual_seed(0)
    worth = torch.rand(400, 500, generator=source)
    worth = (worth * levels).floor() if levels else worth
    mask = torch.rand(400, 500, generator=source) < there
    count = round(share * int(mask.sum()))
    order = worth.masked_fill(~mask, -1).flatten().argsort(descending=True, stable=True)[:count].sort().values
    assert torch.equal(top(worth, count, mask).flatten().nonzero().flatten(), order)
    assert torch.equal(kept(mask, worth, count), top(worth, count, mask))
    more = round(share * int((~mask).sum()))
    order = worth.masked_fill(mask, -1).flatten().argsort(descending=True, stable=True)[:more].sort().values
    assert torch.equal((grown(mask, worth, more) & ~mask).flatten().nonzero().flatten(), order)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_global_counts_are_those_of_one_ranking(density: float) -> None:
    source = torch.Generator().manual_seed(0)
    scores = {f"l{i}": torch.rand(90, 300 + i, generator=source).mul(30).floor() * 4.0**-i for i in range(8)}
    everything = torch.cat([s.flatten() for s in scores.values()])
    total = round(density * len(everything))
    forced = {name: top(s, 1).flatten() for name, s in scores.items()}
    ranked = torch.where(torch.cat(list(forced.values())), torch.inf, everything)
    best = torch.zeros(len(everything), dtype=torch.bool)
    best[ranked.argsort(descending=True, stable=True)[:total]] = True
    wanted = [int(p.sum()) for p in best.split([s.numel() for s in scores.values()])]
    assert list(Global().counts(scores, density).values()) == wanted
    assert min(wanted) >= 1


@pytest.mark.parametrize(("there", "count"), [(0.1, 5), (0.1, 300), (0.9, 20), (0.99, 50), (0.5, 10_000)])
def test_places_outside_of_a_mask_are_different_free_and_alike(there: float, count: int) -> None:
    mask = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) < there
    room = int((~mask).sum())
    hits = torch.zeros(mask.numel())
    for seed in range(200):
        found = outside(mask, count, torch.Generator().manual_seed(seed))
        assert len(found) == len(found.unique()) == min(count, room)
        assert not mask.flatten()[found].any()
        hits[found] += 1
    mean = 200 * min(count, room) / room
    free = hits[~mask.flatten()]
    assert free.mean().item() == pytest.approx(mean)
    assert free.var().item() <= 1.3 * mean + 1e-6  # no place is drawn more often than by chance
    assert free.max() <= mean + 6 * mean**0.5 + 1
