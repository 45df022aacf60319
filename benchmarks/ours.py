"""What the benchmarks measure of meristem."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import meristem
from meristem.axes.map import AxisMap, Role
from meristem.prune import Magnitude
from meristem.signals import View

WHOLE_GROUP = Magnitude(roles=tuple(Role))


def trace(model: nn.Module, example: dict[str, Any]) -> AxisMap:
    """The map."""
    return meristem.trace(model, (), example)


def job(model: nn.Module, example: dict[str, Any]) -> dict[str, Any]:
    """Trace, prune half of every editable axis by the magnitude of its whole group, commit."""
    before = sum(p.numel() for p in model.parameters())
    axes = trace(model, example)
    view, edit = View(axes), meristem.Edit(axes)
    for axis in axes.editable:
        count = axis.size // 2
        if count and WHOLE_GROUP.undefined(axes, axis) is None:
            scores = WHOLE_GROUP.scores(view, axis)
            edit.prune(axis, torch.topk(scores, count, largest=False).indices.tolist())
    edit.commit()
    after = sum(p.numel() for p in model.parameters())
    return {"parameters": [before, after]}
