"""Fifty random edits of weights, units, layers and cells: always runnable, replayable, bit-exact round trips; exact
where they say so, and nothing is touched where they are refused."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import nn

from meristem import AxisMap, Edit, depth, load, replay, save, trace
from meristem.edit import Commit, extra_of
from meristem.errors import EditError
from meristem.mask import SET, Sparse

from ..edit.snapshot import Snapshot, same, values
from .models import net
from .test_random import some_change

EDITS = 50
LEVELS = ("weights", "units", "layers", "cells")


def trained(model: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step, with which single weights die and others are born."""
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


class Sequence:
    """A net that is edited at random at all four levels."""

    def __init__(self, name: str) -> None:
        self.dice = random.Random(name)
        self.model, self.x = net(name).model(), net(name).x()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.sparse = Sparse(self.model, self.optimizer, SET(density=0.7, interval=1))
        self.axes: AxisMap = trace(self.model, self.x)
        self.done: Counter[str] = Counter()
        self.refused, self.exact = 0, 0

    def one_edit(self) -> None:
        kind = self.dice.choice(("weights", "units", "units", "layers", "layers"))
        if kind == "weights":
            before = {name: mask.clone() for name, mask in self.sparse.masks.items()}
            trained(self.model, self.x, self.optimizer)
            changed = any(not torch.equal(mask, self.sparse.masks[name]) for name, mask in before.items())
            self.done["weights"] += changed
        elif kind == "units":
            self._units()
        else:
            self._layers()

    def _units(self) -> None:
        axis = self.dice.choice(self.axes.editable)
        edit = Edit(self.axes, self.optimizer, [self.sparse], seed=self.dice.randrange(9))
        smaller = axis.size > max(axis.minimum, 2) and (axis.size > 9 or self.dice.random() < 0.5)
        edit = edit.prune(axis, [self.dice.randrange(axis.size)]) if smaller else edit.grow(axis, 1)
        with self._exact(edit.preview().exact):
            self.axes = edit.commit().axes
        self.done["units"] += 1

    def _layers(self) -> None:
        before, masks = Snapshot([self.model], [self.optimizer]), self.sparse.state_dict()
        names = list(self.model.state_dict())
        change = some_change(depth.places(self.axes), self.dice)
        commit: Commit | None = None
        if change is not None:
            edit = Edit(self.axes, self.optimizer, [self.sparse], seed=self.dice.randrange(9))
            with suppress(EditError), self._exact(not change.inexact()):
                commit = edit.depth(change).commit()
        if commit is None:
            before.check()
            assert list(self.model.state_dict()) == names
            assert self.sparse.state_dict() == masks
            self.refused += 1
            return
        self.axes = commit.axes
        cells = depth.Arrange, depth.RemoveBranch, depth.AddBranch, depth.ConcatBranch
        self.done["cells" if isinstance(change, cells) else "layers"] += 1

    @contextmanager
    def _exact(self, claimed: bool) -> Iterator[None]:
        """An edit: what it calls exact leaves the outputs as they are."""
        before = self.model(self.x).detach()
        yield
        self.exact += claimed
        if claimed:
            torch.testing.assert_close(self.model(self.x), before, rtol=0, atol=1e-12)

    def check(self) -> None:
        held = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in self.model.parameters())
        assert bool(torch.isfinite(self.model(self.x)).all())
        own = dict(self.model.named_parameters())
        assert all(not bool(own[name][~mask].any()) for name, mask in self.sparse.masks.items())


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["residual", "transformer", "inception"])
def test_fifty_edits_at_four_levels(name: str, tmp_path: Any) -> None:
    one = Sequence(name)
    while sum(one.done.values()) < EDITS or min(one.done[level] for level in LEVELS) < 3:
        one.one_edit()
        one.check()
    assert sum(one.done.values()) < 2 * EDITS, one.done
    assert one.refused >= 3, one.refused
    assert one.exact >= EDITS // 5, one.exact
    fresh = net(name).model()
    again = replay(json.loads(json.dumps(list(one.axes.history))), fresh, one.x)
    assert [(axis.name, axis.size) for axis in again] == [(axis.name, axis.size) for axis in one.axes]
    assert again.history == one.axes.history
    path = tmp_path / "checkpoint.safetensors"
    save(path, one.axes, one.optimizer, extra=one.sparse.state_dict())
    loaded = net(name).model()
    other = torch.optim.Adam(loaded.parameters(), lr=1e-3)
    load(path, loaded, one.x, optimizers=other)
    assert same(values(loaded)[0], values(one.model)[0])
    assert same(values(other), values(one.optimizer))
    sparse = Sparse(loaded, other, SET(density=0.7, interval=1))  # which chooses other masks, and silences by them
    sparse.load_state_dict(extra_of(path))
    loaded.load_state_dict(one.model.state_dict())
    other.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    for model, optimizer in ((one.model, one.optimizer), (loaded, other)):
        trained(model, one.x, optimizer)
    assert same(values(loaded)[0], values(one.model)[0])
    assert same(values(other), values(one.optimizer))
    assert sparse.state_dict() == one.sparse.state_dict()
