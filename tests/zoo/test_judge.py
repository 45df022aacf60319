"""The judge itself: maps that are wrong on purpose must be caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meristem.axes.expression import Concat, Expression, Product
from meristem.axes.map import AxisMap

from .judge import Subject, attempt, comparable, culprits, growth_check, half, permutation_check, prune_check, subject
from .models import row
from .tables import disagreements


def reversed_concatenation(dim: Expression) -> Expression:
    """The pieces in the wrong order."""
    return Concat(dim.parts[::-1]) if isinstance(dim, Concat) else dim


def inside_out(dim: Expression) -> Expression:
    """The factors in the wrong order."""
    return Product(dim.factors[::-1]) if isinstance(dim, Product) else dim


def wronged(name: str, tensor: str, wrong: Callable[[Expression], Expression]) -> Subject:
    """A subject whose map misreads one tensor."""
    true = subject(row(name))
    layout = true.axes.layouts[tensor]
    false = replace(layout, dims=tuple(wrong(dim) for dim in layout.dims))
    assert false != layout
    return replace(true, axes=replace(true.axes, layouts={**true.axes.layouts, tensor: false}))


MISTAKES = [
    ("unet", "merge.weight", reversed_concatenation),
    ("dense_block", "norm.running_mean", reversed_concatenation),
    ("conv_flatten_linear", "7.weight", inside_out),
    ("code_sized_attention", "project.weight", inside_out),
    ("resnext", "norm.bias", inside_out),
]


@pytest.mark.parametrize(("name", "tensor", "wrong"), MISTAKES)
def test_a_misread_tensor_is_caught(name: str, tensor: str, wrong: Callable[[Expression], Expression]) -> None:
    false = wronged(name, tensor, wrong)
    assert culprits(permutation_check, false, false.axes.editable)
    assert culprits(prune_check(half), false, comparable(false.axes.editable))
    assert disagreements(false.axes, false.row.table or {})


def test_a_false_claim_of_exactness_is_caught() -> None:
    true = subject(row("residual_mlp"))
    claims = tuple(replace(axis, couplings=frozenset()) for axis in true.axes)
    false = replace(true, axes=replace(true.axes, axes=claims))
    found = culprits(growth_check(lambda size: 2, 1e-12), false, false.axes.editable)
    assert set(found) == {true.axes["stem"].name}
    assert "drifts" in found[true.axes["stem"].name]


def test_a_forgotten_tensor_is_caught() -> None:
    true = subject(row("conv_flatten_linear"))
    layouts = {name: layout for name, layout in true.axes.layouts.items() if name != "1.running_var"}
    false: AxisMap = replace(true.axes, layouts=layouts)
    assert attempt(prune_check(half), replace(true, axes=false), [false["0"]])
    assert disagreements(false, true.row.table or {})
