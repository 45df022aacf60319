"""Edited models leave for elsewhere: ONNX."""

from __future__ import annotations

from typing import Any

import pytest

from meristem import Edit, depth, trace
from meristem.cli.exported import export

from .models import net


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
    for make in (
        lambda p: depth.RemoveBranch(p, branch),
        lambda p: depth.AddBranch(p, layer),
        lambda p: depth.Remove(p, block),
        lambda p: depth.ConcatBranch(p, units, 2),
        lambda p: depth.Insert(p, f"after {first}", depth.ZeroResidual(hidden=3)),
    ):
        axes = Edit(axes).depth(make(depth.places(axes))).commit().axes
    drift = export(model, (x,), {}, tmp_path / "model.onnx")
    assert drift is not None
    assert drift < 1e-5
