"""The judge: does an edit of these axes do to the model what it must? Knows maps and tensors, no architecture.

Every check takes a subject and the axes to edit in one transaction, works on a copy, and returns None or what is wrong.
`culprits` narrows a failing check down to the fewest axes that fail.
"""

from __future__ import annotations

import copy
import random
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import meristem
from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Coupling
from meristem.edit import Edit

from .linear import linear, precise
from .row import Row

Check = Callable[["Subject", Sequence[Axis]], "str | None"]

EXCUSED = frozenset({Coupling.REDUCED, Coupling.SOFTMAX, Coupling.STANDARDIZED, Coupling.SCALED})
"""Couplings under which removing a unit rightly differs from silencing it."""

SILENT = 1e-100
"""What dropped entries are multiplied by: zero for every purpose, without 0 / 0 in weights that are normalized."""


@dataclass(frozen=True)
class Subject:
    """A model of the zoo, its map, what it is fed, and the parameters that a backward pass reaches.

    The model is never run, only copied: some models cache what they compute, and a cache would outlive the edit.
    """

    row: Row
    model: nn.Module
    axes: AxisMap
    trained: frozenset[str]

    def copied(self) -> Subject:
        """The same with a copy of the model, to be edited."""
        model = copy.deepcopy(self.model)
        return replace(self, model=model, axes=replace(self.axes, model_reference=weakref.ref(model)))

    def answers(self) -> list[Tensor]:
        """Every floating-point output at every batch size of the row."""
        return [output for batch in self.row.batches for output in outputs(self.model, self.row, batch)]


def subject(row: Row, dtype: torch.dtype = torch.float64) -> Subject:
    """Build and trace one model of the zoo."""
    model = row.model(dtype)
    args, kwargs = row.example(dtype=dtype)
    axes = meristem.trace(model, args, kwargs)
    return Subject(row, model, axes, with_gradient(row.model(dtype), row))


def comparable(axes: Sequence[Axis]) -> list[Axis]:
    """The axes on which a pruned model must answer like the silenced one."""
    return [axis for axis in axes if not axis.couplings & EXCUSED]


def outputs(model: nn.Module, row: Row, batch: int) -> list[Tensor]:
    """The floating-point outputs of a model on one batch."""
    dtype = next(model.parameters()).dtype
    args, kwargs = row.example(batch, dtype)
    with torch.no_grad():
        result = model(*args, **kwargs)
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def drift(after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The largest difference relative to the largest value, over all outputs."""
    worst = 0.0
    for a, b in zip(after, before, strict=True):
        if a.shape != b.shape or not bool(torch.isfinite(a).all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)))
    return worst


# ---------------------------------------------------------------------------------------------------------- edits


def chosen(axis: Axis, count: int) -> list[int]:
    """Some units of an axis: always the same ones, not the first ones."""
    return sorted(random.Random(axis.size * 1009 + axis.index).sample(range(axis.size), count))


def half(size: int) -> int:
    """Units left when half is pruned."""
    return max(1, size // 2)


def pruned(subject: Subject, axes: Sequence[Axis], left: Callable[[int], int]) -> tuple[Subject, dict[int, list[int]]]:
    """A copy with units removed, and which ones, by axis."""
    work = subject.copied()
    keep = {axis: max(left(axis.size), axis.minimum) for axis in axes}
    removed = {axis.index: chosen(axis, axis.size - n) for axis, n in keep.items() if axis.size > n}
    edit = Edit(work.axes)
    for index, units in removed.items():
        edit.prune(work.axes.axes[index], units)
    return replace(work, axes=edit.commit().axes), removed


def grown(subject: Subject, axes: Sequence[Axis], count: Callable[[int], int]) -> Subject:
    """A copy with units inserted by the default start."""
    work = subject.copied()
    edit = Edit(work.axes)
    for axis in axes:
        edit.grow(axis, count(axis.size))
    return replace(work, axes=edit.commit().axes)


@torch.no_grad()
def silence(work: Subject, removed: dict[int, list[int]]) -> None:
    """Set to zero every entry of every parameter and buffer that belongs to a dropped unit."""
    tensors = dict(work.model.named_parameters(remove_duplicate=False))
    tensors |= dict(work.model.named_buffers(remove_duplicate=False))
    for index, units in removed.items():
        for place in work.axes.places[index]:
            tensor = tensors[place.layout.name]
            dropped = torch.isin(units_along(place.layout.dims[place.dim], index, work.axes.sizes), torch.tensor(units))
            if tensor.is_floating_point():
                tensor.movedim(place.dim, 0)[dropped] *= SILENT


# --------------------------------------------------------------------------------------------------------- checks


def prune_check(left: Callable[[int], int], compare: bool = True) -> Check:
    """Prune: shapes as predicted, trains, and answers like the original with the dropped entries set to zero."""

    def check(subject: Subject, axes: Sequence[Axis]) -> str | None:
        after, removed = pruned(subject, axes, left)
        problem = broken(subject, after, {index: -len(units) for index, units in removed.items()})
        if problem or not compare or len(comparable(axes)) < len(axes):
            return problem
        reference = subject.copied()
        silence(reference, removed)
        with linear(after.model, reference.model):
            moved = drift(after.answers(), reference.answers())
        return None if moved <= 1e-10 else f"differs from the silenced original by {moved:.1e}"

    return check


def growth_check(count: Callable[[int], int], tolerance: float) -> Check:
    """Grow: shapes as predicted, trains, and the function is preserved where every axis says exact."""

    def check(subject: Subject, axes: Sequence[Axis]) -> str | None:
        after = grown(subject, axes, count)
        problem = broken(subject, after, {axis.index: count(axis.size) for axis in axes})
        if problem or not all(axis.exact for axis in axes):
            return problem
        original = subject.copied()
        with precise(after.model, original.model):
            moved = drift(after.answers(), original.answers())
        return None if moved <= tolerance else f"says exact and drifts by {moved:.1e}"

    return check


def resize_check(size: int) -> Check:
    """Give axes one size, whatever they had: those that shrink as a pruning, then those that grow as a growth."""

    def check(subject: Subject, axes: Sequence[Axis]) -> str | None:
        shrink = [axis for axis in axes if axis.size > max(size, axis.minimum)]
        grow = [axis for axis in axes if axis.size < size]
        problem = prune_check(lambda _: size)(subject, shrink) if shrink else None
        if problem or not grow:
            return problem
        work = pruned(subject, shrink, lambda _: size)[0] if shrink else subject
        return growth_check(lambda now: size - now, 1e-12)(work, [work.axes.axes[axis.index] for axis in grow])

    return check


def permutation_check(subject: Subject, axes: Sequence[Axis]) -> str | None:
    """Reorder: the function is unchanged."""
    work = subject.copied()
    edit = Edit(work.axes)
    for axis in axes:
        order = list(range(axis.size))
        random.Random(axis.index).shuffle(order)
        edit.permute(work.axes.axes[axis.index], order)
    edit.commit()
    original = subject.copied()
    with precise(work.model, original.model):
        moved = drift(work.answers(), original.answers())
    return None if moved <= 1e-10 else f"changes by {moved:.1e} when units are reordered"


def broken(before: Subject, after: Subject, change: dict[int, int]) -> str | None:
    """Whether shapes differ from the prediction, or what was finite of outputs and gradients is not, or is gone."""
    sizes = [axis.size + change.get(axis.index, 0) for axis in before.axes]
    tensors = {**dict(after.model.named_parameters()), **dict(after.model.named_buffers())}
    for name, layout in before.axes.layouts.items():
        if tuple(tensors[name].shape) != layout.shape(sizes):
            return f"{name} has shape {tuple(tensors[name].shape)}, predicted {layout.shape(sizes)}"
    lost = before.trained - with_gradient(after.model, after.row)
    if lost:
        return f"no finite gradient for {sorted(lost)[:3]}"
    return None if finite(after) or not finite(before.copied()) else "its outputs are not finite"


def finite(subject: Subject) -> bool:
    """Whether every output at the first batch size is finite."""
    return all(bool(out.isfinite().all()) for out in outputs(subject.model, subject.row, subject.row.batches[0]))


def with_gradient(model: nn.Module, row: Row) -> frozenset[str]:
    """The parameters that a backward pass reaches, with a gradient that is finite."""
    args, kwargs = row.example(dtype=next(model.parameters()).dtype)
    answers: list[Any] = [x for x in tree_leaves(model(*args, **kwargs)) if isinstance(x, Tensor) and x.requires_grad]
    torch.stack([(answer * torch.randn_like(answer)).sum() for answer in answers]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.shape == p.shape}
    return frozenset(name for name, gradient in gradients.items() if bool(gradient.isfinite().all()))


def attempt(check: Check, subject: Subject, axes: Sequence[Axis]) -> str | None:
    """The check's verdict; an exception is a verdict too."""
    try:
        return check(subject, axes)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def culprits(check: Check, subject: Subject, axes: Sequence[Axis]) -> dict[str, str]:
    """The smallest groups of axes (halving) that fail a check, each with what is wrong; empty if all pass."""
    problem = attempt(check, subject, axes) if axes else None
    if problem is None:
        return {}
    if len(axes) == 1:
        return {axes[0].name: problem}
    middle = len(axes) // 2
    found = culprits(check, subject, axes[:middle]) | culprits(check, subject, axes[middle:])
    return found or {" with ".join(axis.name for axis in axes): problem}


def together(check: Check, subject: Subject) -> dict[str, str]:
    """The culprits where all axes are edited at once, and all of those whose answers are compared."""
    axes = subject.axes.editable
    exact = [axis for axis in axes if axis.exact]
    return {
        who: why for group in (axes, comparable(axes), exact) for who, why in culprits(check, subject, group).items()
    }
