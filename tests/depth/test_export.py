"""Edited models leave for elsewhere: ONNX, `torch.export`, compiled code."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from meristem import Edit, depth, trace
from meristem.cli.exported import export

from .models import Transformer, net


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["residual", "transformer", "inception"])
def test_edited_models_become_onnx_files_that_compute_the_same(name: str, tmp_path: Any) -> None:
    model, x = net(name).model().float(), net(name).x()
    x = x.float() if x.is_floating_point() else x
    axes = trace(model, x)
    first, block, layer, branch = {
        "residual": ("stage.0", "stage.1", "stage.0.conv2", "stage.2.bn2"),
        "transformer": ("layers.0", "layers.1", "layers.0.mlp", "layers.2.attention"),
        "inception": ("stem", "wide.1", "head", "narrow"),
    }[name]
    units = {"residual": "stage.0.conv1", "transformer": "layers.0.mlp.0.0", "inception": "wide"}[name]
    rows = [lambda p: depth.AddBranch(p, "wide.0.0..1")] if name == "inception" else []
    for make in (
        lambda p: depth.RemoveBranch(p, branch),
        lambda p: depth.AddBranch(p, layer),
        lambda p: depth.Remove(p, block),
        lambda p: depth.ConcatBranch(p, units, 2),
        lambda p: depth.Insert(p, f"after {first}", depth.ZeroResidual(hidden=3)),
        *rows,
    ):
        axes = Edit(axes).depth(make(depth.places(axes))).commit().axes
    exported = export(model, (x,), {}, tmp_path / "model.onnx")
    assert exported.drift is not None
    assert exported.drift < 1e-5


@pytest.mark.heavy
def test_an_edited_transformer_is_exported_as_it_computes() -> None:
    """Layers inserted, copied and removed, a branch gone and one born: `torch.export` takes the model as it is, with
    its mask as a keyword argument, and the program takes other batches of the same shape."""
    model, x = net("transformer").model(), net("transformer").x()
    axes = trace(model, x)
    for make in (
        lambda p: depth.Insert(p, "after layers.1", depth.ZeroResidual(hidden=3, activation="GELU")),
        lambda p: depth.duplicated(p, "layers.0", 1, depth.Plain()),
        lambda p: depth.RemoveBranch(p, "layers.1.mlp"),
        lambda p: depth.AddBranch(p, "layers.0.attention"),
        lambda p: depth.Remove(p, "layers.4"),
    ):
        axes = Edit(axes).depth(make(depth.places(axes))).commit().axes
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # what started from zero counts
    exported = torch.export.export(model, (x,))
    assert {*exported.state_dict} == {*model.state_dict()}
    program = exported.module()
    for tokens in (x, (x + 3) % 11):
        torch.testing.assert_close(program(tokens), model(tokens), rtol=0, atol=1e-12)


COMPILED: dict[str, tuple[Callable[[depth.Places], depth.Change], ...]] = {
    "perceptron": (
        lambda p: depth.Insert(p, "after 1", depth.Net2Deeper()),
        lambda p: depth.duplicated(p, "6", 1, depth.Plain()),
        lambda p: depth.Arrange(p, "4", (0, 2, 3)),
        lambda p: depth.AddBranch(p, "2..3"),
    ),
    "residual": (
        lambda p: depth.Insert(p, "after stage.0", depth.ZeroResidual(hidden=3)),
        lambda p: depth.AddBranch(p, "stage.0.conv2"),
        lambda p: depth.ConcatBranch(p, "stage.2.conv1", 2),
        lambda p: depth.Remove(p, "stage.3"),
    ),
    "transformer": (
        lambda p: depth.duplicated(p, "layers.0", 1, depth.Silent()),
        lambda p: depth.RemoveBranch(p, "layers.1.attention"),
        lambda p: depth.AddBranch(p, "layers.0.mlp"),
        lambda p: depth.Insert(p, "after layers.0", depth.ZeroResidual(hidden=3)),
    ),
}


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and there is no g++")
@pytest.mark.parametrize(("name", "called"), [("perceptron", (0, 3)), ("residual", (3,)), ("transformer", (3,))])
def test_a_compiled_model_computes_the_same_after_edits(name: str, called: tuple[int, ...]) -> None:
    """With PyTorch's default backend, compiled before all edits and called after some of them; forward, and gradients
    of all parameters, new ones too."""
    made = replace(net(name), build=lambda: Transformer(layers=1)) if name == "transformer" else net(name)
    model, x = made.model(), made.x()
    axes = trace(model, x)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model)
    reference, found = model, x
    for number, make in enumerate(COMPILED[name]):
        before = len(list(model.parameters()))
        axes = Edit(axes).depth(make(depth.places(axes))).commit().axes
        assert len(list(model.parameters())) != before
        if number in called:
            reference = copy.deepcopy(model)
            found = compiled(x)
            torch.testing.assert_close(found, reference(x), rtol=0, atol=1e-12)
    found.square().mean().backward()
    reference(x).square().mean().backward()
    for one, two in zip(model.parameters(), reference.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-12)
