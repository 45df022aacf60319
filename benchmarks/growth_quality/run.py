"""One run: a fixed net or one that grows, and what came of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

import meristem
from benchmarks.growth_quality.activity import activities
from benchmarks.growth_quality.nets import build, missing_widths, on
from benchmarks.growth_quality.tasks import LARGE, Task
from benchmarks.growth_quality.training import train
from meristem.axes import AxisMap
from meristem.plasticity import Plasticity
from meristem.train.data import DataSet
from meristem.train.loop import Standardized

OLDEST = torch.iinfo(torch.int64).max
"""The age of units that no edit inserted."""


def run(task: Task, data: DataSet) -> dict[str, Any]:
    """The result of a run, as JSON has it.

    `undefined` names the axes for which the method has no meaning; they keep their small width. If it has none for any
    axis, nothing is run and `run` is None. `newborns` counts the units that were inserted (for a fixed net: all units
    of the axes that grow in other runs), those of them that are inactive at the end, and those whose activation is zero
    on all test images; see `activity`.
    """
    torch.manual_seed(task.seed)
    missing = missing_widths(task, data)
    widths, device = task.settings.nets[task.net], task.settings.device
    model = build(task, widths.large if task.arm == LARGE else widths.small, data).to(torch.device(device))
    inputs = Standardized(*(x.to(device) for x in data.channel_statistics()))
    data = on(data, device)
    axes = meristem.trace(model, inputs(data.train_images[:2]))
    undefined = undefined_axes(task, axes, list(missing))
    result: dict[str, Any] = {"config": task.config, "undefined": undefined, "notes": [], "run": None, "newborns": None}
    if len(undefined) == len(missing):
        return result
    defined = {name: count for name, count in missing.items() if name not in undefined}
    trained = train(task, axes, data, inputs, defined)
    plasticity = trained.growing.plasticity if trained.growing else None
    return {
        **result,
        "notes": trained.growing.notes if trained.growing else [],
        "run": asdict(trained.run),
        "newborns": newborns(trained.axes, list(missing), plasticity, inputs, data),
    }


def undefined_axes(task: Task, axes: AxisMap, names: list[str]) -> dict[str, str]:
    """The axes for which the method has no meaning, and why."""
    if task.method is None:
        return {}
    reasons = {name: task.method.undefined(axes, axes.by_name[name]) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def newborns(
    axes: AxisMap, names: list[str], plasticity: Plasticity | None, inputs: Standardized, data: DataSet
) -> dict[str, int]:
    """How many there are, and how many of them do nothing."""
    found = {"units": 0, "inactive": 0, "silent": 0}
    for name, activity in activities(axes, names, inputs, data).items():
        size = axes.by_name[name].size
        chosen = torch.ones(size, dtype=torch.bool)
        if plasticity is not None:
            chosen = plasticity.ages.get(name, torch.full((size,), OLDEST)) < OLDEST
        found["units"] += int(chosen.sum())
        found["inactive"] += int((activity.inactive & chosen).sum())
        found["silent"] += int((activity.silent & chosen).sum())
    return found
