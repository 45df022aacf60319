"""What the benchmarks measure of meristem."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

import meristem
from benchmarks.memory import resident, settled
from meristem.axes.expression import leaves
from meristem.axes.map import AxisMap, Role
from meristem.edit import Edit
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
    view, edit = View(axes), Edit(axes)
    for axis in axes.editable:
        count = axis.size // 2
        if count and WHOLE_GROUP.undefined(axes, axis) is None:
            scores = WHOLE_GROUP.scores(view, axis)
            edit.prune(axis, torch.topk(scores, count, largest=False).indices.tolist())
    edit.commit()
    after = sum(p.numel() for p in model.parameters())
    return {"parameters": [before, after]}


def commit(model: nn.Module, example: dict[str, Any]) -> dict[str, Any]:
    """Only the commit of an edit that prunes half of every editable axis, and copying the edited tensors once."""
    axes = trace(model, example)
    edit = Edit(axes)
    for axis in axes.editable:
        if axis.size > 1:
            edit.prune(axis, range(axis.size // 2))
    return timed(edit)


def growth(model: nn.Module, example: dict[str, Any]) -> dict[str, Any]:
    """Only the commit of an edit that grows every editable axis by a quarter, and copying the edited tensors once."""
    axes = trace(model, example)
    edit = Edit(axes)
    for axis in axes.editable:
        edit.grow(axis, max(1, axis.size // 4))
    return timed(edit)


def timed(edit: Edit) -> dict[str, Any]:
    """Seconds of a commit, of copying the tensors that it changes, and their ratio without 1 ms an axis.

    `growth` is the size of these tensors after the commit by that before. An edit that makes them larger writes as much
    more than a copy of the old ones does; `copies_written` counts in copies of the larger of both.
    """
    edited = {change.axis.index for change in edit.changes}
    tensors = {**dict(edit.axes.model.named_parameters()), **dict(edit.axes.model.named_buffers())}
    layouts = [x for x in edit.axes.layouts.values() if any(a in edited for dim in x.dims for a in leaves(dim))]
    start = time.perf_counter()
    copies = [tensors[layout.name].detach().clone() for layout in layouts]
    copying = time.perf_counter() - start
    entries = sum(copy.numel() for copy in copies)
    del copies, tensors
    standing = settled()
    start = time.perf_counter()
    edit.commit()
    seconds = time.perf_counter() - start
    tensors = {**dict(edit.axes.model.named_parameters()), **dict(edit.axes.model.named_buffers())}
    growth = sum(tensors[layout.name].numel() for layout in layouts) / entries
    beyond_axes = (seconds - 1e-3 * len(edited)) / copying
    return {
        "seconds": seconds,
        "growth": growth,
        "peak_bytes": resident("VmHWM") - standing,
        "copy_seconds": copying,
        "axes": len(edited),
        "tensors": len(layouts),
        "ratio": seconds / copying,
        "ratio_without_axes": beyond_axes,
        "copies_written": beyond_axes / max(1.0, growth),
    }
