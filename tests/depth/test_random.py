"""Random sequences of unit-level and depth edits: always runnable, replayable, bit-exact round trips."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import torch
from torch import nn

from meristem import AxisMap, Edit, depth, load, replay, save, trace
from meristem.errors import EditError

from ..edit.snapshot import Snapshot, same, values
from .models import net

KINDS = ("insert", "remove", "branch", "arrange", "silent", "beside", "units")


def some_change(places: depth.Places, dice: random.Random, kinds: tuple[str, ...] = KINDS) -> depth.Change | None:
    """A random change that is permissible, or None if the kind that was drawn has no place."""
    kind = dice.choice(kinds)
    try:
        if kind == "insert":
            ways = [way for way in places.insertions if way.frozen is None and way.features is not None]
            what = dice.choice(
                (depth.ZeroResidual(hidden=3), depth.Net2Deeper(), depth.ZeroResidual(activation="GELU"))
            )
            return depth.Insert(places, dice.choice(ways).name, what) if ways else None
        if kind == "remove":
            found = [r for r in places.removals if r.frozen is None and r.parameters]
            return depth.Remove(places, dice.choice(found).name) if found else None
        if kind == "branch":
            branches = [b for b in places.branches if b.frozen is None]
            return depth.RemoveBranch(places, dice.choice(branches).name) if branches else None
        runs = [r for r in places.runs if r.frozen is None and len(r) < 6]
        layers = [path for path, module in places.model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        if kind == "units":
            return depth.ConcatBranch(places, dice.choice(layers), dice.randint(2, 3))
        rows = [row.children for row in places.rows if row.frozen is None] if kind == "row" else []
        if rows:
            row = dice.choice(rows)
            first = dice.randrange(len(row) - 1)
            last = dice.randint(first + 1, len(row) - 1)
            return depth.AddBranch(places, f"{row[first]}..{row[last].rpartition('.')[2]}")
        if kind in ("beside", "row") or not runs:
            return depth.AddBranch(places, dice.choice(layers))
        run = dice.choice(runs)
        if kind == "silent":
            return depth.duplicated(places, run.blocks[0][0], 1, depth.Silent())
        order = [dice.randrange(len(run)) for _ in range(dice.randint(1, len(run) + 1))]
        return depth.Arrange(places, run.name, tuple(order))
    except EditError:
        return None


def one_edit(axes: AxisMap, optimizer: torch.optim.Optimizer, x: torch.Tensor, dice: random.Random) -> AxisMap:
    """A gather of an axis, or a change of the module tree; refused ones leave everything as it was."""
    if axes.editable and dice.random() < 0.4:
        axis = dice.choice(axes.editable)
        edit = Edit(axes, optimizer, seed=dice.randrange(9))
        smaller = axis.size > max(axis.minimum, 2) and (axis.size > 9 or dice.random() < 0.5)
        (edit.prune(axis, [dice.randrange(axis.size)]) if smaller else edit.grow(axis, 1)).commit()
        assert edit.result is not None
        return edit.result.axes
    change = some_change(depth.places(axes), dice, (*KINDS, "row"))
    if change is None:
        return axes
    model = axes.model
    before, reference = Snapshot([model], [optimizer]), copy.deepcopy(model)
    try:
        after = Edit(axes, optimizer, seed=dice.randrange(9)).depth(change).commit().axes
    except EditError:
        before.check()
        return axes
    if not change.inexact():
        torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    return after


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["residual", "transformer", "mixer", "perceptron", "numbered", "inception"])
def test_random_sequences(name: str, tmp_path: Any) -> None:
    dice = random.Random(name)
    model, x = net(name).model(), net(name).x()
    axes = trace(model, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        axes = one_edit(axes, optimizer, x, dice)
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert any("depth" in record for record in axes.history)
    fresh = net(name).model()
    again = replay(json.loads(json.dumps(list(axes.history))), fresh, x)
    assert [(axis.name, axis.size) for axis in again] == [(axis.name, axis.size) for axis in axes]
    path = tmp_path / "checkpoint.safetensors"
    save(path, axes, optimizer)
    loaded = net(name).model()
    other = torch.optim.Adam(loaded.parameters(), lr=1e-3)
    load(path, loaded, x, optimizers=other)
    assert same(values(loaded)[0], values(model)[0])
    assert same(values(other), values(optimizer))
    assert torch.equal(loaded(x), model(x))
