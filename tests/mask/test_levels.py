"""Masks live through edits of units and layers in one transaction, and through branches that come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meristem import AxisMap, Edit, depth, trace
from meristem.errors import StaleMapError
from meristem.mask import RigL, Sparse, Static, TopKAST
from meristem.mask.method import Method
from tests.depth.models import net

DENSITY = 0.4


class Run:
    """A net in sparse training with Adam, after three steps."""

    def __init__(self, name: str, method: Method, newborns: float | None = 1.0) -> None:
        self.model, self.x = net(name).model(), net(name).x()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.sparse = Sparse(self.model, self.optimizer, method, newborns=newborns)
        self.axes: AxisMap = trace(self.model, self.x)
        self.train(3)
        self.before = {name: mask.clone() for name, mask in self.sparse.masks.items()}
        self.state = {
            name: self.optimizer.state[self.model.get_parameter(name)]["exp_avg_sq"].clone() for name in self.before
        }

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(self.x).square().mean().backward()
            self.optimizer.step()

    def edit(self, change: Callable[[Edit, depth.Places], object]) -> None:
        edit = Edit(self.axes, self.optimizer, [self.sparse], seed=1)
        change(edit, depth.places(self.axes))
        self.axes = edit.commit().axes

    def seconds(self, name: str) -> Tensor:
        return self.optimizer.state[self.model.get_parameter(name)]["exp_avg_sq"]

    def check(self, state: bool = True) -> None:
        """Every weight that is not there is zero, and what does not learn has nothing that Adam remembers."""
        assert list(self.sparse.masks)
        for name, mask in self.sparse.masks.items():
            parameter = self.model.get_parameter(name)
            assert mask.shape == parameter.shape
            assert not bool(parameter[~mask].any())
            learning = self.sparse._kept.learning.get(name, mask)
            for value in self.optimizer.state[parameter].values() if state else ():
                assert value.dim() == 0 or not bool(value[~learning].any())
            assert self.sparse.masks.nonzeros[name] == int(mask.sum())


def units_and_layers(edit: Edit, places: depth.Places) -> None:
    """Feed-forward units of one block go, those of another come; a third block is copied, and a layer is inserted."""
    edit.prune("layers.0.mlp.0", [1, 4]).grow("layers.2.mlp.0", 3)
    edit.depth(depth.duplicated(places, "layers.1"))
    edit.depth(depth.Insert(places, "before head", depth.ZeroResidual(hidden=3)))


@pytest.mark.parametrize("newborns", [1.0, 0.5, None])
def test_units_and_layers_in_one_transaction(newborns: float | None) -> None:
    run = Run("transformer", Static(density=DENSITY), newborns)
    whole = run.sparse.masks.density
    run.edit(units_and_layers)
    old, new = run.before, run.sparse.masks
    kept = [n for n in range(10) if n not in (1, 4)]
    assert torch.equal(new["layers.0.mlp.0.weight"], old["layers.0.mlp.0.weight"][kept])
    assert torch.equal(new["layers.0.mlp.2.weight"], old["layers.0.mlp.2.weight"][:, kept])
    assert torch.equal(new["layers.3.mlp.0.weight"][:10], old["layers.2.mlp.0.weight"])
    assert torch.equal(new["layers.3.mlp.2.weight"][:, :10], old["layers.2.mlp.2.weight"])
    for name, fresh in (
        ("layers.2.mlp.0.weight", new["layers.3.mlp.0.weight"][10:]),
        ("layers.2.mlp.2.weight", new["layers.3.mlp.2.weight"][:, 10:]),
    ):
        share = int(old[name].sum()) / old[name].numel() if newborns is None else newborns
        assert int(fresh.sum()) == round(share * fresh.numel())
    for moved, name in (("layers.1", "layers.1"), ("layers.3", "layers.2"), ("layers.0", "layers.0")):
        for part in ("attention.qkv", "attention.out"):
            assert torch.equal(new[f"{moved}.{part}.weight"], old[f"{name}.{part}.weight"])
    for part in ("layers.2.attention.qkv", "layers.2.mlp.0", "head.0.0", "head.0.2"):  # a copy, and what is built
        mask = new[f"{part}.weight"]
        assert int(mask.sum()) == round((whole if newborns is None else newborns) * mask.numel())
    assert torch.equal(run.seconds("layers.0.mlp.0.weight"), run.state["layers.0.mlp.0.weight"][kept])
    assert torch.equal(run.seconds("layers.3.mlp.2.weight")[:, :10], run.state["layers.2.mlp.2.weight"])
    assert not bool(run.seconds("layers.3.mlp.0.weight")[10:].any())
    run.check(state=False)
    run.train(2)
    run.check()


def test_a_global_count_is_exact_again() -> None:
    """Top-KAST counts over all parameters at once; what learns, and is remembered, is more than what is there."""
    run = Run("transformer", TopKAST(density=DENSITY, backward=0.6, interval=1))
    run.edit(units_and_layers)
    run.train(2)
    run.check()
    masks = run.sparse.masks
    total = sum(mask.numel() for mask in masks.values())
    assert sum(masks.nonzeros.values()) == round(DENSITY * total)
    assert "layers.2.mlp.0.weight" in masks
    assert "head.0.2.weight" in masks


def test_a_dynamic_method_returns_to_exact_counts() -> None:
    """After the next update every parameter has the number of weights that its density says, new layers too."""
    run = Run("transformer", RigL(density=DENSITY, interval=2, end=100))
    target = dict(run.sparse._kept.densities)
    whole = run.sparse.masks.density
    run.edit(units_and_layers)
    run.train(4)
    run.check()
    names = {f"layers.{n}.{part}": f"layers.{m}.{part}" for n, m in ((0, 0), (1, 1), (3, 2)) for part in PARTS}
    for now, before in names.items():
        mask = run.sparse.masks[now]
        assert int(mask.sum()) == round(target[before] * mask.numel())
    for part in (*(f"layers.2.{part}" for part in PARTS), "head.0.0.weight", "head.0.2.weight"):
        mask = run.sparse.masks[part]
        assert int(mask.sum()) == round(whole * mask.numel())


PARTS = ("attention.qkv.weight", "attention.out.weight", "mlp.0.weight", "mlp.2.weight")

CELLS: dict[str, tuple[str, Callable[[depth.Places], depth.Change], dict[str, str], tuple[str, ...]]] = {
    "a branch beside": (
        "transformer",
        lambda p: depth.AddBranch(p, "layers.0.attention"),
        {"layers.0.attention.0.qkv.weight": "layers.0.attention.qkv.weight", "head.weight": "head.weight"},
        ("layers.0.attention.1.qkv.weight", "layers.0.attention.1.out.weight"),
    ),
    "a branch of a sum goes": (
        "residual",
        lambda p: depth.RemoveBranch(p, "stage.1.bn2"),
        {"stage.0.conv1.weight": "stage.0.conv1.weight", "stage.2.conv2.weight": "stage.2.conv2.weight"},
        (),
    ),
    "a copy of a block": (
        "residual",
        lambda p: depth.duplicated(p, "stage.0", 1, depth.AutoGrow()),
        {"stage.2.conv1.weight": "stage.1.conv1.weight", "stem.weight": "stem.weight"},
        ("stage.1.conv1.weight", "stage.1.conv2.weight"),
    ),
    "a branch of a concatenation": (
        "inception",
        lambda p: depth.ConcatBranch(p, "wide", 3),
        {"wide.0.0.weight": "wide.0.weight", "narrow.0.weight": "narrow.0.weight"},
        ("wide.1.0.weight", "wide.1.2.weight"),
    ),
    "a branch of a concatenation goes": (
        "inception",
        lambda p: depth.RemoveBranch(p, "narrow"),
        {"wide.0.weight": "wide.0.weight", "stem.weight": "stem.weight"},
        (),
    ),
}


@pytest.mark.parametrize("case", CELLS)
def test_branches_come_and_go(case: str) -> None:
    name, make, stay, born = CELLS[case]
    run = Run(name, RigL(density=DENSITY, interval=100, end=1000), newborns=0.5)
    whole, target = run.sparse.masks.density, dict(run.sparse._kept.densities)
    run.edit(lambda edit, places: edit.depth(make(places)))
    for now, before in stay.items():
        assert torch.equal(run.sparse.masks[now], run.before[before])
        assert torch.equal(run.seconds(now), run.state[before])
        assert run.sparse._kept.densities[now] == target[before]
    for new in born:
        mask = run.sparse.masks[new]
        assert int(mask.sum()) == round(0.5 * mask.numel())
        assert run.sparse._kept.densities[new] == whole
    own = {id(p) for p in run.model.parameters()}
    assert {id(run.model.get_parameter(name)) for name in run.sparse.masks} <= own
    convolutions = [m for m in run.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]
    assert {id(m.weight) for m in convolutions} >= {id(run.model.get_parameter(name)) for name in run.sparse.masks}
    if "concatenation" in case:  # the columns of the head are those of the units that are there
        head, old = run.sparse.masks["head.weight"], run.before["head.weight"]
        if born:
            assert torch.equal(head[:, :9], old)
            assert int(head[:, 9:].sum()) == round(0.5 * head[:, 9:].numel())
        else:
            assert torch.equal(head, old[:, 4:])
            assert torch.equal(run.seconds("head.weight"), run.state["head.weight"][:, 4:])
    run.check(state=False)
    run.train(2)
    run.check()


def test_edits_that_were_missed_are_noticed_and_nothing_is_lost() -> None:
    run = Run("transformer", Static(density=DENSITY))
    edit = Edit(run.axes, run.optimizer).prune("layers.0.mlp.0", [9])
    edit.depth(depth.Remove(depth.places(run.axes), "layers.1"))
    first = edit.commit()
    state = run.sparse.state_dict()
    second = Edit(first.axes, run.optimizer)
    commit = second.depth(depth.Remove(depth.places(first.axes), "layers.1")).prune("layers.0.mlp.0", [0]).commit()
    for wrong in (first, commit):
        with pytest.raises(StaleMapError):
            run.sparse.after(wrong)
        assert run.sparse.state_dict() == state
