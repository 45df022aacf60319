"""Expressions against brute force: an index of a dimension is spelled out as a tuple of axis units."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.axes import NEWBORN, Concat, Expression, Leaf, Product, gather_index, leaves, size_of, units_along

SIZES = (2, 3, 4, 5)


def expressions() -> st.SearchStrategy[Expression]:
    leaf = st.integers(0, len(SIZES) - 1).map(Leaf)
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda items: Product(tuple(items))),
            st.lists(inner, min_size=1, max_size=3).map(lambda items: Concat(tuple(items))),
        ),
        max_leaves=4,
    )


def spelled_out(expression: Expression) -> list[tuple[tuple[int, int], ...]]:
    """For each index of a dimension the (axis, unit) pairs it consists of, outermost first, by plain recursion."""
    if isinstance(expression, Leaf):
        return [((expression.axis, unit),) for unit in range(SIZES[expression.axis])]
    if isinstance(expression, Concat):
        return [index for part in expression.parts for index in spelled_out(part)]
    found: list[tuple[tuple[int, int], ...]] = [()]
    for factor in expression.factors:
        found = [outer + inner for outer in found for inner in spelled_out(factor)]
    return found


@given(expressions())
@settings(max_examples=150, deadline=None)
def test_size_and_leaves(expression: Expression) -> None:
    assert size_of(expression, SIZES) == len(spelled_out(expression))
    assert set(leaves(expression)) == {axis for index in spelled_out(expression) for axis, _ in index}


@given(expressions(), st.integers(0, len(SIZES) - 1))
@settings(max_examples=150, deadline=None)
def test_units_along(expression: Expression, axis: int) -> None:
    expected = [next((unit for a, unit in reversed(index) if a == axis), -1) for index in spelled_out(expression)]
    assert units_along(expression, axis, SIZES).tolist() == expected


@given(expressions(), st.data())
@settings(max_examples=150, deadline=None)
def test_keeping_units_keeps_the_indices_made_of_them(expression: Expression, data: st.DataObject) -> None:
    kept = {axis: sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))) for axis, size in enumerate(SIZES)}
    gathers = {axis: torch.tensor(units) for axis, units in kept.items()}
    expected = [i for i, index in enumerate(spelled_out(expression)) if all(unit in kept[a] for a, unit in index)]
    assert gather_index(expression, gathers, SIZES).tolist() == expected


@given(expressions(), st.integers(0, len(SIZES) - 1), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_growing_adds_newborn_indices_and_keeps_all_old_ones(expression: Expression, axis: int, count: int) -> None:
    grown = torch.cat([torch.arange(SIZES[axis]), torch.full((count,), NEWBORN)])
    index = gather_index(expression, {axis: grown}, SIZES)
    sizes = [size + count if a == axis else size for a, size in enumerate(SIZES)]
    assert len(index) == size_of(expression, sizes)
    assert index[index >= 0].tolist() == list(range(size_of(expression, SIZES)))
