"""Patterns (N:M, the same of every row) hold at every moment: at updates and through edits; or they are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Commit, Edit
from meristem.errors import ConfigError
from meristem.grow import Net2Wider, ZeroFanOut
from meristem.ledger import Weights
from meristem.mask import (
    ERK,
    NM,
    SET,
    SNFS,
    SNIP,
    DeepR,
    Distribution,
    Fixed,
    GradualMagnitude,
    GraNet,
    GraSP,
    IterativeMagnitude,
    Masks,
    Method,
    RigL,
    Rows,
    Sparse,
    SparseGPT,
    Static,
    TopKAST,
    Uniform,
    Wanda,
)
from meristem.mask.pattern import has
from meristem.signals import View
from tests.mask.models import batches, loss_of, mlp, train

EXCHANGING: dict[str, Callable[[Distribution], Method]] = {
    "SET": lambda d: SET(density=0.5, interval=4, distribution=d),
    "DeepR": lambda d: DeepR(density=0.5, distribution=d),
    "RigL": lambda d: RigL(density=0.5, end=20, interval=3, distribution=d),
    "SNFS": lambda d: SNFS(density=0.5, interval=4, end=20, distribution=d),
    "GraNet": lambda d: GraNet(density=0.5, end=20, interval=3, distribution=d),
    "GraNet at the start": lambda d: GraNet(density=0.5, end=20, interval=3, start_distribution=d),
}
KEEPING: dict[str, Callable[[Distribution], Method]] = {
    "Static": lambda d: Static(density=0.5, distribution=d),
    "Fixed": lambda d: Fixed(masks=masks_of(d), distribution=d),
    "SNIP": lambda d: SNIP(density=0.5, distribution=d),
    "GraSP": lambda d: GraSP(density=0.5, distribution=d),
    "TopKAST": lambda d: TopKAST(density=0.5, backward=0.75, interval=2, distribution=d),
    "GradualMagnitude": lambda d: GradualMagnitude(density=0.5, end=7, interval=2, distribution=d),
    "IterativeMagnitude": lambda d: IterativeMagnitude(interval=6, rewind=2, rounds=3, distribution=d),
}
PATTERNS: dict[str, Distribution] = {"NM": NM(m=4), "Rows": Rows()}


def masks_of(distribution: Distribution) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(5)
    named = [(name, p) for name, p in mlp().named_parameters() if p.dim() == 2]
    return distribution.masks({name: torch.rand(p.shape, generator=source) for name, p in named}, 0.5)


def start(method: Method) -> tuple[nn.Sequential, torch.optim.Optimizer, Sparse]:
    net = mlp()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return net, optimizer, Sparse(net, optimizer, method, closure=lambda: loss_of(net, batches(1)[0]))


def counts(pattern: Distribution, mask: Tensor) -> set[int]:
    """How many weights each group has."""
    return set((mask.unflatten(1, (-1, 4)) if isinstance(pattern, NM) else mask).sum(-1).flatten().tolist())


def check(pattern: Distribution, net: nn.Module, sparsity: Sparse) -> None:
    for name, mask in sparsity.masks.items():
        assert len(counts(pattern, mask)) == 1
        assert not net.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", EXCHANGING)
def test_methods_that_exchange_weights_refuse_patterns(name: str, pattern: str) -> None:
    EXCHANGING[name](ERK())
    with pytest.raises(ConfigError, match=r"would lose the pattern.*Uniform.*GradualMagnitude"):
        EXCHANGING[name](PATTERNS[pattern])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", KEEPING)
def test_the_others_keep_them_at_every_step_and_through_edits(name: str, pattern: str) -> None:
    kept = PATTERNS[pattern]
    net, optimizer, sparsity = start(KEEPING[name](kept))
    axes, source = meristem.trace(net, batches(1)[0]), torch.Generator().manual_seed(2)
    for change in ("grow", "prune", "permute", "none", "grow", "none", "prune"):
        for x in batches(3):
            train(net, optimizer, [x])
            check(kept, net, sparsity)
        for axis in ("0", "2"):
            edit, size = Edit(axes, optimizer, seed=3), axes[axis].size
            drawn = torch.randperm(size, generator=source)
            if change == "grow":
                edit.grow(axis, 4)
            elif change == "prune":
                edit.prune(axis, drawn[:4].tolist())
            elif change == "permute":
                edit.permute(axis, drawn)
            else:
                continue
            commit = edit.commit()
            sparsity.after(commit)
            axes = commit.axes
            check(kept, net, sparsity)
    assert sparsity.masks.density < 0.76


def test_of_groups_torn_apart_the_largest_stay() -> None:
    net, optimizer, sparsity = start(Static(density=0.5, distribution=NM(m=4)))
    axes = meristem.trace(net, batches(1)[0])
    keep = [0, 2, 3, 5, 6, 8, 10, 11, 12, 13, 14, 15]
    old, weight = sparsity.masks["2.weight"][:, keep], net[2].weight.detach()[:, keep]
    rows = sparsity.masks["0.weight"][keep]
    sparsity.after(Edit(axes, optimizer).keep("0", keep).commit())
    new, more = sparsity.masks["2.weight"], 0
    for row in range(12):
        for group in range(0, 12, 4):
            there = [j for j in range(group, group + 4) if old[row, j]]
            best = sorted(there, key=lambda j: -weight[row, j].abs().item())[:2]
            found = {j for j in range(group, group + 4) if new[row, j]}
            assert len(found) == 2
            assert found >= set(best)
            more += len(found) - len(best)
            assert all(net[2].weight[row, j] == 0 for j in found - set(best))  # from zero
    assert more > 0
    assert torch.equal(new[:, 8:], old[:, 8:])  # whole groups stay as they were
    assert torch.equal(sparsity.masks["0.weight"], rows)


def test_groups_of_their_own_keep_growth_exact() -> None:
    net, optimizer, sparsity = start(Static(density=0.5, distribution=NM(m=4)))
    x = batches(1)[0]
    axes, old = meristem.trace(net, x), {name: mask.clone() for name, mask in sparsity.masks.items()}
    before = net(x)
    growth = ZeroFanOut().propose(View(axes), axes["0"], 8)
    Edit(axes, optimizer, follow=[sparsity]).gather(growth.axis, growth.gather, growth.start).commit()
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)
    check(NM(m=4), net, sparsity)
    assert torch.equal(sparsity.masks["0.weight"][:16], old["0.weight"])
    assert torch.equal(sparsity.masks["2.weight"][:, :16], old["2.weight"])


def test_newborns_get_their_share_of_every_row() -> None:
    """Otherwise they, which begin at zero, would all lose against incumbents."""
    net, optimizer, sparsity = start(Static(density=0.25, distribution=Rows()))
    Edit(meristem.trace(net, batches(1)[0]), optimizer, follow=[sparsity]).grow("0", 8).commit()
    assert round(0.25 * 12 * 8) <= int(sparsity.masks["2.weight"][:, 16:].sum()) <= 2 * round(0.25 * 12 * 8)
    assert counts(Rows(), sparsity.masks["2.weight"]) == {6}


def test_what_newborns_start_from_stays_where_there_is_room() -> None:
    """A copy of a unit reads what the unit reads."""
    net, optimizer, sparsity = start(Static(density=0.5, distribution=NM(m=4)))
    axes, old = meristem.trace(net, batches(1)[0]), net[0].weight.detach().clone()
    growth = Net2Wider().propose(View(axes), axes["0"], 4)
    Edit(axes, optimizer, follow=[sparsity]).gather(growth.axis, growth.gather, growth.start).commit()
    for row, mask in zip(net[0].weight[16:], sparsity.masks["0.weight"][16:], strict=True):
        assert bool((row == old).all(1).any())
        assert torch.equal(mask, row != 0)


@pytest.mark.parametrize("told", [True, False])
def test_edits_that_leave_no_groups_are_refused(told: bool) -> None:
    net, optimizer, sparsity = start(Static(density=0.5, distribution=NM(m=4)))
    axes, state = meristem.trace(net, batches(1)[0]), sparsity.state_dict()
    edit = Edit(axes, optimizer, follow=[sparsity] if told else []).grow("0", 3)
    if told:
        with pytest.raises(ConfigError, match="multiple of it"):
            edit.commit()
        assert net[0].weight.shape == (16, 20)
        train(net, optimizer, batches(2))
    else:
        commit = edit.commit()
        with pytest.raises(ConfigError, match="multiple of it"):
            sparsity.after(commit)
    assert sparsity.state_dict()["masks"] == state["masks"]


def test_inserted_layers_have_the_pattern() -> None:
    net, _, sparsity = start(Static(density=0.5, distribution=NM(m=4)))
    moved = {f"{i}.{leaf}": f"{j}.{leaf}" for i, j in ((0, 0), (2, 4), (4, 6)) for leaf in ("weight", "bias")}
    layers = [net[0], nn.Tanh(), nn.Linear(16, 16).double(), nn.Tanh(), net[2], nn.Tanh(), net[4]]
    del net[1:]
    net.extend(layers[1:])
    sparsity.after(Commit(meristem.trace(net, batches(1)[0]), {"axes": [], "depth": {}}, {}, (), moved))
    assert list(sparsity.masks) == ["0.weight", "4.weight", "6.weight", "2.weight"]
    check(NM(m=4), net, sparsity)
    assert counts(NM(m=4), sparsity.masks["2.weight"]) == {2}


def test_masks_alone_keep_a_pattern_too() -> None:
    net = mlp()
    masks = Masks(net, masks_of(NM(m=4)))
    masks.after(Edit(meristem.trace(net, batches(1)[0])).prune("0", [0, 3, 6, 9]).commit(), pattern=NM(m=4))
    assert all(counts(NM(m=4), mask) == {2} for mask in masks.values())


def test_a_pattern_is_known_when_it_is_seen() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1], [0, 1, 1, 0, 1, 1, 0, 0]], dtype=torch.bool)
    assert has(NM(m=4), "w", mask)
    assert has(Rows(), "w", mask[:, [0, 1, 4, 2, 3, 5, 6, 7]])
    assert not has(NM(m=4), "w", mask[:, [0, 1, 5, 2, 3, 4, 6, 7]])
    assert not has(Rows(), "w", mask & torch.tensor([[True], [False]]))
    wrong = {**masks_of(NM(m=4)), "2.weight": masks_of(ERK())["2.weight"]}
    with pytest.raises(ConfigError, match=r"2\.weight has not the pattern of NM"):
        start(Fixed(masks=wrong, distribution=NM(m=4)))
    assert start(Fixed(masks=wrong))[2].method.pattern is None


@pytest.mark.parametrize("density", [0.1, 1 / 3, 0.6])
def test_densities_are_whole_numbers_of_a_group(density: float) -> None:
    for refused in (
        lambda: start(Static(density=density, distribution=NM(m=4))),
        lambda: start(GradualMagnitude(density=density, end=9, interval=2, distribution=NM(m=4))),
        lambda: start(TopKAST(density=0.5, backward=0.5 + density / 2, distribution=NM(m=4))),
        lambda: Wanda(density=density, m=4),
        lambda: SparseGPT(density=density, m=4),
    ):
        with pytest.raises(ConfigError, match=r"multiple of 1/4"):
            refused()
    assert start(Static(density=1 / 3, distribution=Rows()))[2].masks.nonzeros["0.weight"] == 16 * round(20 / 3)


def test_a_schedule_passes_the_next_lower_pattern() -> None:
    scores = {"w": torch.rand(6, 8, generator=torch.Generator().manual_seed(0))}
    passed = {d: counts(NM(m=4), NM(m=4).passing(scores, d)["w"]) for d in (1.0, 0.8, 0.75, 0.51, 0.3, 0.01)}
    assert passed == {1.0: {4}, 0.8: {3}, 0.75: {3}, 0.51: {2}, 0.3: {1}, 0.01: {1}}


@pytest.mark.parametrize("method", [Static(density=0.5, distribution=NM(m=4)), TopKAST(density=0.5, backward=0.7)])
def test_nobody_else_changes_masks_that_are_the_method_s_own(method: Method) -> None:
    net, optimizer, sparsity = start(method)
    with pytest.raises(ConfigError, match=rf"{type(method).__name__} cannot be exchanged.*Static"):
        Weights(sparsity)
    train(net, optimizer, batches(1))
    state = sparsity.state_dict()
    with pytest.raises(ConfigError, match="cannot be changed"):
        sparsity.rewire({"0.weight": ~sparsity.masks["0.weight"]})
    assert sparsity.state_dict() == state
    train(net, optimizer, batches(3))
    Weights(start(Static(density=0.5, distribution=Uniform()))[2])
