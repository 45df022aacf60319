"""What users hang on modules and parameters stays there through every kind of edit, and copies have none of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from meristem import Edit, depth, trace
from meristem.edit import Commit

from .models import net

EDITS: dict[str, tuple[str, Callable[[depth.Places], depth.Change]]] = {
    "insert into a container": ("residual", lambda p: depth.Insert(p, "after stage.0", depth.ZeroResidual(hidden=3))),
    "insert around a module": ("residual", lambda p: depth.Insert(p, "after stem", depth.ZeroResidual())),
    "insert before a module": ("unet", lambda p: depth.Insert(p, "before down.1", depth.ZeroResidual())),
    "insert a copy": ("perceptron", lambda p: depth.Insert(p, "after 3", depth.ResidualCopy())),
    "remove a block": ("transformer", lambda p: depth.Remove(p, "layers.1")),
    "remove a layer": ("residual", lambda p: depth.Remove(p, "stage.1.conv1")),
    "remove a branch": ("transformer", lambda p: depth.RemoveBranch(p, "layers.0.attention")),
    "remove a branch of units": ("inception", lambda p: depth.RemoveBranch(p, "narrow")),
    "copy": ("residual", lambda p: depth.duplicated(p, "stage.1", 2, depth.Silent())),
    "copy afresh": ("residual", lambda p: depth.duplicated(p, "stage.0", 1, depth.AutoGrow())),
    "add a branch": ("transformer", lambda p: depth.AddBranch(p, "layers.2.attention")),
    "add a branch of units": ("inception", lambda p: depth.ConcatBranch(p, "wide", 3)),
    "stack": ("transformer", lambda p: depth.Arrange(p, "layers", depth.stacked(3, 6))),
    "interlace": ("mixer", lambda p: depth.Arrange(p, "layers", depth.interlaced(2, 4))),
    "upscale": ("transformer", lambda p: depth.Arrange(p, "layers", depth.upscaled(3, 1))),
    "reorder and remove": ("numbered", lambda p: depth.Arrange(p, "trunk", (1,))),
}
MODULE_HOOKS = ("forward_pre", "forward", "full_backward_pre", "full_backward")


class Marked:
    """A net with four hooks and an attribute on every module, two hooks and an attribute on every parameter."""

    def __init__(self, name: str) -> None:
        self.model, self.x = net(name).model(), net(name).x()
        self.seen: Counter[tuple[str, str]] = Counter()
        self.handles: list[Any] = []
        self.modules = dict(self.model.named_modules())
        self.parameters = [name for name, _ in self.model.named_parameters()]
        for path, module in self.modules.items():
            module.mark = path  # type: ignore[assignment]
            for kind in MODULE_HOOKS:
                register = getattr(module, f"register_{kind}_hook")
                self.handles.append(register(partial(self._saw, kind, path)))
        for path, parameter in self.model.named_parameters():
            parameter.mark = path  # type: ignore[attr-defined]
            self.handles.append(parameter.register_hook(partial(self._saw, "gradient", path)))
            self.handles.append(parameter.register_post_accumulate_grad_hook(partial(self._saw, "accumulated", path)))

    def _saw(self, kind: str, path: str, *_: object) -> None:
        self.seen[kind, path] += 1

    def run(self) -> Counter[tuple[str, str]]:
        """How often each hook fires in one training step."""
        self.seen.clear()
        self.model.zero_grad(set_to_none=True)
        self.model(self.x).square().mean().backward()
        return Counter(self.seen)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("case", EDITS)
def test_hooks_and_attributes_stay(case: str) -> None:
    name, make = EDITS[case]
    one = Marked(name)
    axes = trace(one.model, one.x)
    before = one.run()
    hooks = {path: {k: list(vars(m)[k]) for k in vars(m) if k.endswith("_hooks")} for path, m in one.modules.items()}
    commit = Edit(axes).depth(make(depth.places(axes))).commit()
    after = one.run()
    stay = {id(module) for module in one.model.modules()}
    kept = {path: module for path, module in one.modules.items() if id(module) in stay}
    assert kept
    for path, module in kept.items():
        assert module.mark == path
        assert {k: list(vars(module)[k]) for k in hooks[path]} == hooks[path]
        for kind in MODULE_HOOKS:
            assert after[kind, path] == before[kind, path], (kind, path)
    parameters = dict(one.model.named_parameters())
    for old, new in commit.moved.items():
        if old in one.parameters:
            assert parameters[new].mark == old
            assert after["gradient", old] == before["gradient", old] == 1
            assert after["accumulated", old] == before["accumulated", old] == 1
    fired = {path for kind, path in after if kind in ("gradient", "accumulated")}
    assert fired == {old for old in commit.moved if old in one.parameters}  # nothing that left, nothing twice
    new = [m for m in one.model.modules() if id(m) not in {id(known) for known in one.modules.values()}]
    assert not any(hook for m in new for key, hook in vars(m).items() if key.endswith("_hooks"))
    check_handles(one, commit)


def check_handles(one: Marked, commit: Commit) -> None:
    """The handles still remove their hooks, of replaced parameters, too."""
    for handle in one.handles:
        handle.remove()
    assert not one.run()
    parameters = dict(one.model.named_parameters())
    assert not any(parameters[new]._backward_hooks for new in commit.moved.values() if new in parameters)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_copies_of_marked_blocks_keep_plain_attributes() -> None:
    """What is set on a module is a part of it: a copy has it, without hooks that would fire twice."""
    one = Marked("transformer")
    axes = trace(one.model, one.x)
    Edit(axes).depth(depth.duplicated(depth.places(axes), "layers.1")).commit()
    copied, original = one.model.layers[2], one.model.layers[1]
    assert copied.mark == original.mark == "layers.1"
    assert copied.norm1.weight.mark == "layers.1.norm1.weight"
    seen = one.run()
    assert seen["forward", "layers.1"] == 1
    assert seen["gradient", "layers.1.norm1.weight"] == 1
    assert isinstance(original, nn.Module)
    assert not torch.equal(copied.norm1.weight.grad, original.norm1.weight.grad)
