"""Branches beside neighbouring children of a container: against brute force, and what becomes of the function."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from meristem import Edit, depth, load, replay, save, trace
from meristem.edit.joints import Beside, Stretch
from meristem.errors import EditError

from .brute import container
from .brute_branches import brute_rows, stretches
from .looked import looked_at
from .models import NETS, Net, net


def neighbours(model: nn.Module) -> list[tuple[str, ...]]:
    """Neighbouring children of containers: two or three, or all."""
    found: list[tuple[str, ...]] = []
    for path, parent in model.named_modules():
        names = [f"{path}.{name}" if path else name for name in parent._modules] if container(parent) else []
        found += [tuple(names[first : first + count]) for first, count in stretches(len(names))]
    return found


def name_of(row: tuple[str, ...]) -> str:
    return f"{row[0]}..{row[-1].rpartition('.')[2]}"


def opened(places: depth.Places) -> set[tuple[str, ...]]:
    """The rows beside which a branch can be added, each proven."""
    works: set[tuple[str, ...]] = set()
    for row in neighbours(places.model):
        with suppress(EditError):
            works.add(places.addition("add", name_of(row)).row)
    return works


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_rows_are_those_of_brute_force(found: Net) -> None:
    """Every stretch of them, and each lies in one that is listed as open."""
    _, places = looked_at(found.name)
    mine = opened(places)
    assert mine == brute_rows(found)
    listed = [row for row in places.rows if row.frozen is None]
    assert all(any(row.named(name_of(one)) == one for row in listed) for one in mine)
    assert all(row.frozen is None or row.frozen for row in places.rows)


def plain() -> nn.Module:
    """Blocks of a convolution and an activation, as in VGG."""
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(*blocks), nn.Conv2d(4, 2, 1))


class Words(nn.Module):
    """Children of a container that are called by words; an attribute says how many there are."""

    def __init__(self) -> None:
        super().__init__()
        parts = {"enter": nn.Linear(6, 8), "bend": nn.Tanh(), "leave": nn.Linear(8, 6), "turn": nn.Linear(6, 6)}
        self.trunk, self.count, self.head = nn.ModuleDict(parts), len(parts), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert len(self.trunk) == self.count
        for part in self.trunk.values():
            x = part(x)
        return self.head(x)


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], str]

CASES: dict[str, Case] = {
    "blocks": (Net("plain", plain, lambda: torch.randn(2, 3, 6, 6)).model, net("residual").x, "1.1..2"),
    "layers": (net("mixer").model, net("mixer").x, "layers.0.channels.0..1"),
    "root": (net("perceptron").model, net("perceptron").x, "2..6"),
    "words": (lambda: Words().double().eval(), lambda: torch.randn(5, 6).double(), "trunk.enter..leave"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_branch_beside_a_row_comes_and_goes_without_a_trace(case: str, tmp_path: Path) -> None:
    """Exact; undone by removal; the same from the history, and from a checkpoint."""
    make, example, name = CASES[case]
    torch.manual_seed(0)
    model, x = make(), example()
    pristine, text, before = copy.deepcopy(model), str(model), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    trained, expected = copy.deepcopy(model.state_dict()), model(x)
    assert any(not torch.equal(trained[key], value) for key, value in before.items())
    axes = trace(model, x)
    change = depth.AddBranch(depth.places(axes), name)
    assert change.inexact() == ()
    commit = Edit(axes, optimizer).depth(change).commit()
    axes = commit.axes
    joint = next(module for module in model.modules() if isinstance(module, Beside))
    assert [type(child) for child in joint] == [Stretch, Stretch]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    fresh = copy.deepcopy(pristine)
    replay(json.loads(json.dumps(list(axes.history))), fresh, x)
    assert str(fresh) == str(model)
    assert list(fresh.state_dict()) == list(model.state_dict())
    path = tmp_path / "branch"
    save(path, axes, optimizer)
    again = copy.deepcopy(pristine)
    load(path, again, x)
    torch.testing.assert_close(again(x), expected, rtol=0, atol=1e-12)
    where = next(path for path, module in model.named_modules() if module is joint)
    model(x).square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in joint.get_submodule("1").parameters())
    cut = depth.RemoveBranch(depth.places(axes), f"{where}.1")
    assert cut.inexact() == ()
    Edit(axes, optimizer).depth(cut).commit()
    assert str(model) == text
    torch.testing.assert_close(model.state_dict(), trained, rtol=0, atol=0)
    assert vars(model).get("count") == vars(pristine).get("count")


def test_the_old_row_may_go_and_the_copy_stay() -> None:
    """A third branch is a child more of the joint; the last that remains becomes children of the container again."""
    make, example, _ = CASES["blocks"]
    model, x = make(), example()
    axes = trace(model, x)
    for name in ("1.0..1", "1.0.1"):
        axes = Edit(axes).depth(depth.AddBranch(depth.places(axes), name)).commit().axes
    first = model.get_submodule("1.0.1")
    assert len(model.get_submodule("1.0")._modules) == 3
    for gone in ("1.0.0", "1.0.1"):
        axes = Edit(axes).depth(depth.RemoveBranch(depth.places(axes), gone)).commit().axes
    assert str(model) == str(make())
    assert list(model.get_submodule("1").children())[:2] == list(first.children())


def test_frozen_rows_say_why() -> None:
    model, other = net("transformer").model(), net("indexed").model()
    places = depth.places(trace(model, net("transformer").x()))
    (row,) = [row for row in places.rows if row.container == "layers"]
    assert row.frozen == "they know their positions, or are described one by one elsewhere"
    with pytest.raises(EditError, match="know their positions"):
        depth.AddBranch(places, "layers.0..1")
    with pytest.raises(EditError, match="rows are: "):
        depth.AddBranch(places, "layers.0..9")
    with pytest.raises(EditError, match="beside one module"):
        depth.ConcatBranch(places, "layers.0..1", 2)
    indexed = depth.places(trace(other, net("indexed").x()))
    with pytest.raises(EditError, match="cannot be run then"):
        depth.AddBranch(indexed, "cut.0..1")
    assert "layers.0..2" in str(places)


def test_modes_of_modules_stay() -> None:
    """A normalization that is kept in eval mode while its model trains stays so, in rehearsals and in edits."""
    model = net("perceptron").model().train()
    kept = model.get_submodule("3").eval()
    axes = trace(model, net("perceptron").x())
    places = depth.places(axes)
    change = depth.AddBranch(places, "2..3")
    assert places.ways is not None
    assert not kept.training
    Edit(axes).depth(change).commit()
    joint = model.get_submodule("2")
    assert joint.training
    assert [part.training for part in joint.modules() if isinstance(part, nn.BatchNorm1d)] == [False, False]
