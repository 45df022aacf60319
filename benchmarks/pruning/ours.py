"""meristem's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import escape

import torch
from torch import Tensor, nn

import meristem
from benchmarks.pruning.settings import OWN
from meristem.allocate import Limits, Proportional, Ranked, fast_multiple, out_of_step, plan_pruning
from meristem.edit import Edit, ZeroFanOut
from meristem.prune import FPGM, BatchNormScale, Criterion, GroupNorm, Magnitude, Random, TaylorWeights
from meristem.recipes import supervised
from meristem.recipes.evidence import evidence
from meristem.recipes.goal import CompensatedWherePossible
from meristem.recipes.taylor import TaylorWherePossible
from meristem.schedule import Budget, Demand
from meristem.signals import View

CRITERIA: Mapping[str, Criterion] = {
    "random": Random(),
    "L1": Magnitude(p=1),
    "L2": Magnitude(p=2),
    "batch norm scale": BatchNormScale(),
    "Taylor": TaylorWeights(),
    "FPGM": FPGM(),
    "group norm": GroupNorm(),
    OWN: CompensatedWherePossible(TaylorWherePossible()),
}


def prepare(
    model: nn.Module, x: Tensor, batches: Sequence[tuple[Tensor, Tensor]], criterion: str, removed: float, seed: int
) -> None:
    """Nothing has to be found out before."""


def prune(
    model: nn.Module,
    x: Tensor,
    batches: Sequence[tuple[Tensor, Tensor]],
    criterion: str,
    removed: float,
    seed: int,
    prepared: None,
) -> nn.Module:
    """Trace, score, plan, edit. Heads stay whole, as on the other side."""
    axes, who = meristem.trace(model, x), CRITERIA[criterion]
    chosen = [axis for axis in axes.editable if axis.kind != "heads" and who.undefined(axes, axis) is None]
    if criterion == OWN:
        left = out_of_step(axes, chosen)
        chosen = [axis for axis in chosen if axis not in left]
    needed = list(dict.fromkeys(s for axis in chosen for s in who.needs(axes, axis)))
    signals = evidence(axes, needed, batches, supervised) if needed else {}
    view = View(axes, generator=torch.Generator().manual_seed(seed), signals=signals)
    multiples = {axis: fast_multiple(axes, axis) if criterion == OWN else 1 for axis in chosen}
    limits = {escape(axis.name): Limits(minimum=-(-axis.size // 10), multiple=multiples[axis]) for axis in chosen}
    allocator = Ranked(limits=limits, per="flop") if criterion == OWN else Proportional()
    budget = Budget(flops=(1 - removed) * axes.flops())
    edit = Edit(axes)
    for plan in plan_pruning(view, chosen, Demand("prune", sum(a.size for a in chosen), budget), who, allocator):
        edit.gather(plan.axis, plan.gather, plan.start or ZeroFanOut())
    edit.commit()
    return model
