"""What newborns get and give beside incumbents, on one batch: the diagnosis of arXiv 2605.15435."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.hooks import RemovableHandle

from meristem.diagnose.record import MEASURES, AxisRecord, Cohort, Record
from meristem.signals import activation_frequency, gradient_size
from meristem.study.studies.stability.nets import hidden, linear, reader


@dataclass(frozen=True)
class Units:
    """The units of one hidden layer.

    Attributes:
        active: whether they take part, bool, shape (units,).
        born: the optimizer step after which they joined; -1: from the start.
    """

    active: Tensor
    born: Tensor


@dataclass(frozen=True, slots=True)
class Newborn:
    """One unit that joined, at one look.

    Attributes:
        age: optimizer steps since it joined.
        activation, gradient: R_act and R_grad of this unit alone: what it gives and gets, divided by the means over all
            units that are older than its cohort and take part; NaN where such a mean is 0.
    """

    age: int
    activation: float
    gradient: float


def measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The measures of every unit of every hidden layer, in the order of `MEASURES`: float64, shape (measures, units).

    In eval mode, so that nothing is drawn at random; gradients of the model's parameters are left alone.
    """
    model.eval()
    with _heard(model) as tensors:
        loss = cross_entropy(model(x), y)
    names = hidden(model)
    weights = [linear(model, name).weight for name in (*names, "head")]
    given = [tensors[name] for name in names]
    found = torch.autograd.grad(loss, [*given, *weights])
    model.train()
    gradients = dict(zip((*names, "head"), found[len(names) :], strict=True))
    return {
        name: _rows(model, name, tensors[f"act{name[2:]}"].detach(), delta, gradients)
        for name, delta in zip(names, found, strict=False)
    }


def record(step: int, measured: Mapping[str, Tensor], units: Mapping[str, Units]) -> Record:
    """All hidden layers at a step, in cohorts of newborns beside all that are older and take part."""
    axes = {name: _axis(step, table.cpu(), units[name]) for name, table in measured.items()}
    return Record(step, axes, {})


def newborns(step: int, measured: Mapping[str, Tensor], units: Mapping[str, Units]) -> list[Newborn]:
    """Every unit of every hidden layer that joined and takes part, one by one."""
    return [each for name, table in measured.items() for each in _each(step, table.cpu(), units[name])]


def _each(step: int, table: Tensor, units: Units) -> Iterator[Newborn]:
    rows = table[[MEASURES.index("frequency"), MEASURES.index("gradient")]]
    for born in sorted(set(units.born[units.active & (units.born >= 0)].tolist())):
        young, old = units.active & (units.born == born), units.active & (units.born < born)
        means = rows[:, old].mean(1, keepdim=True)
        ratios = torch.where(means > 0, rows[:, young] / means, torch.nan)
        for activation, gradient in ratios.T.tolist():
            yield Newborn(step - born, activation, gradient)


def _rows(model: nn.Module, name: str, h: Tensor, delta: Tensor, gradients: Mapping[str, Tensor]) -> Tensor:
    size, fan_out = h.abs().double().mean(0), linear(model, reader(model, name)).weight.detach().double().norm(dim=0)
    rows = (
        activation_frequency(h),
        size,
        gradient_size(delta),
        linear(model, name).weight.detach().double().norm(dim=1),
        fan_out,
        gradients[name].double().norm(dim=1),
        gradients[reader(model, name)].double().norm(dim=0),
        size * fan_out,
    )
    return torch.stack(rows)


@contextmanager
def _heard(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What hidden layers give, and their activations before any mask, while the block runs."""
    heard: dict[str, Tensor] = {}

    def listen(name: str, module: nn.Module) -> RemovableHandle:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            heard[name] = output

        return module.register_forward_hook(keep)

    handles = []
    for name in hidden(model):
        handles.append(listen(name, linear(model, name)))
        act = model.get_submodule(f"act{name[2:]}")
        handles.append(listen(f"act{name[2:]}", getattr(act, "function", act)))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _axis(step: int, table: Tensor, units: Units) -> AxisRecord:
    births = sorted(set(units.born[units.active & (units.born >= 0)].tolist()))
    oldest = births[0] if births else step + 1
    incumbents = units.active & (units.born < oldest)
    return AxisRecord(
        size=int(units.active.sum()),
        incumbents=int(incumbents.sum()),
        means=_means(table, incumbents),
        cohorts=tuple(_cohort(step, table, units, born) for born in births),
    )


def _cohort(step: int, table: Tensor, units: Units, born: int) -> Cohort:
    young, old = units.active & (units.born == born), units.active & (units.born < born)
    means, others = _means(table, young), _means(table, old)
    ratios = {name: mean / others[name] if others[name] else None for name, mean in means.items()}
    return Cohort(born, step - born, int(young.sum()), int(old.sum()), means, ratios)


def _means(table: Tensor, chosen: Tensor) -> dict[str, float]:
    return dict(zip(MEASURES, table[:, chosen].mean(1).tolist(), strict=True)) if bool(chosen.any()) else {}
