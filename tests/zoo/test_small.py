"""Our own small models: every axis on its own, and the map against a table written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import meristem

from .judge import (
    Subject,
    attempt,
    culprits,
    grown,
    growth_check,
    half,
    permutation_check,
    prune_check,
    resize_check,
    subject,
)
from .models import AWKWARD_ROWS, SMALL_ROWS
from .tables import disagreements


@pytest.fixture(scope="module", params=(*SMALL_ROWS, *AWKWARD_ROWS), ids=lambda row: row.name)
def traced(request: pytest.FixtureRequest) -> Subject:
    return subject(request.param)


CHECKS = {
    "prune to half": prune_check(half),
    "prune to one unit": prune_check(lambda size: 1),
    "grow by 1": growth_check(lambda size: 1, 1e-12),
    "grow by 3": growth_check(lambda size: 3, 1e-12),
    "reorder": permutation_check,
}


def test_map_equals_what_was_found_by_hand(traced: Subject) -> None:
    frozen = {axis.name: axis.frozen for axis in traced.axes if axis.frozen}
    if traced.row.table is None:
        assert len(traced.axes.editable) == traced.row.editable, f"frozen: {frozen}"
    else:
        found = disagreements(traced.axes, traced.row.table)
        assert not found, "\n".join([*found, f"frozen: {frozen}"])


@pytest.mark.parametrize("what", CHECKS)
def test_every_axis_on_its_own(traced: Subject, what: str) -> None:
    problems = {axis.name: attempt(CHECKS[what], traced, [axis]) for axis in traced.axes.editable}
    assert not {name: problem for name, problem in problems.items() if problem}


@pytest.mark.parametrize("how", ["alone", "all at once"])
def test_lengths_that_become_equal(traced: Subject, how: str) -> None:
    """Each axis gets the size of another one, or all get one size: what is not refused by the line of code that
    compares sizes works as any other edit does."""
    axes = traced.axes.editable
    aims = sorted({axis.size for axis in traced.axes if axis.size > 1})[:4]
    cases = [[axis] for axis in axes] if how == "alone" else [list(axes)] if axes else []
    problems = {f"{case[0].name} to {n}": attempt(resize_check(n), traced, case) for case in cases for n in aims}
    assert not {name: problem for name, problem in problems.items() if problem and "compares sizes" not in problem}


def test_all_axes_at_once(traced: Subject) -> None:
    axes = traced.axes.editable
    exact = [axis for axis in axes if axis.exact]
    assert not culprits(permutation_check, traced, axes)
    assert not culprits(prune_check(half), traced, axes)
    assert not culprits(growth_check(lambda size: max(1, size // 4), 1e-12), traced, axes)
    assert not culprits(growth_check(lambda size: 2, 1e-12), traced, exact)


def test_the_map_after_an_edit_is_the_map_of_the_edited_model(traced: Subject) -> None:
    """Grown, that is: an axis that was pruned to one unit cannot be told from a length that broadcasts."""
    after = grown(traced, traced.axes.editable, lambda size: max(1, size // 4)) if traced.axes.editable else traced
    args, kwargs = traced.row.example()
    again = meristem.trace(after.model, args, kwargs)
    assert again.sizes == after.axes.sizes
    assert again.layouts == after.axes.layouts
    assert again.attributes == after.axes.attributes
    assert [(a.name, a.frozen is None, a.couplings) for a in again] == [
        (a.name, a.frozen is None, a.couplings) for a in after.axes
    ]


def test_tracing_leaves_the_model_untouched(traced: Subject) -> None:
    model = traced.row.model().train()
    args, kwargs = traced.row.example()
    before = snapshot(model)
    meristem.trace(model, args, kwargs)
    assert snapshot(model) == before


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that a model holds: tensors as objects and by value, modes, hooks, and plain attributes."""
    held: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            held[f"{path}.{name}"] = repr(value) if name not in ("_parameters", "_buffers") else None
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            held[f"{path}.{name}"] = (id(tensor), tensor.detach().sum().item(), tensor.grad is None)
    return held
