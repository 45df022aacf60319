"""The algebra: what is unified, cut and regrouped stands for the same row-major index as before."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.axes import ONE, Concat, Leaf, Product
from meristem.axes.expression import Expression, leaves, units_along
from meristem.axes.map import Coupling
from meristem.axes.space import CONFLICT, SINGLE, Space, matching_groups


def test_axes_become_one_and_share_what_is_known_of_them() -> None:
    space = Space()
    a, b = space.axis(4, "model input"), space.axis(4)
    space.couple(b, Coupling.REDUCED)
    assert space.unify(a, b)
    assert space.resolve(a) == space.resolve(b)
    assert space.frozen(b)
    assert space.couplings[next(iter(space.roots(a)))] == {Coupling.REDUCED}


def test_an_axis_is_replaced_by_an_expression() -> None:
    space = Space()
    whole, heads, size = space.axis(12), space.axis(3), space.axis(4)
    assert space.unify(whole, Product((heads, size)))
    assert space.resolve(whole) == Product((heads, size))


def test_products_take_the_common_refinement_from_the_outside_in() -> None:
    space = Space()
    a, b, c, d = space.axis(6), space.axis(4), space.axis(2), space.axis(12)
    assert space.unify(Product((a, b)), Product((c, d)))
    first, second = space.resolve(Product((a, b))), space.resolve(Product((c, d)))
    assert first == second
    assert [space.size(Leaf(axis)) for axis in leaves(first)] == [2, 3, 4]


def test_concatenations_are_cut_at_the_borders_of_both() -> None:
    space = Space()
    a, b, c, d = space.axis(2), space.axis(6), space.axis(5), space.axis(3)
    assert space.unify(Concat((a, b)), Concat((c, d)))
    resolved = space.resolve(Concat((a, b)))
    assert resolved == space.resolve(Concat((c, d)))
    assert [space.size(Leaf(axis)) for axis in leaves(resolved)] == [2, 3, 3]


def test_a_product_is_cut_where_the_borders_fall_on_whole_units() -> None:
    space = Space()
    outer, inner, a, b = space.axis(5), space.axis(4), space.axis(8), space.axis(12)
    assert space.unify(Product((outer, inner)), Concat((a, b)))
    assert space.size(Leaf(next(leaves(space.resolve(a))))) == 2
    assert space.resolve(Product((outer, inner))) == space.resolve(Concat((a, b)))


def test_what_cannot_be_reconciled_is_frozen_on_both_sides() -> None:
    space = Space()
    six, four, three = space.axis(6), space.axis(4), space.axis(3)
    odd = Product((space.axis(9), space.axis(2)))
    assert not space.unify(Product((six, three)), Product((four, space.axis(2))))  # other sizes
    assert space.frozen(six)
    assert CONFLICT in space.reasons[next(leaves(four))]
    assert not space.unify(odd, Product((space.axis(6), space.axis(3))))  # 9 * 2 and 6 * 3 have no common refinement
    assert space.frozen(odd)


def test_a_product_in_either_order_makes_its_factors_one() -> None:
    space = Space()
    a, b = space.axis(4), space.axis(2)
    assert space.unify(Product((a, b)), Product((b, a)))
    assert space.resolve(a) == Product((space.resolve(b), space.resolve(b)))


def test_a_single_unit_of_a_concatenation_is_real_and_frozen() -> None:
    space = Space()
    whole = space.axis(5)
    first, rest = space.cut(whole, [1, 4])
    assert isinstance(first, Leaf)
    assert SINGLE in space.reasons[first.axis]
    assert not space.frozen(rest)
    assert space.size(whole) == 5


def test_pieces_that_share_the_inner_factor_are_divided_together() -> None:
    space = Space()
    a, b, r = space.axis(2), space.axis(3), space.axis(4)
    outer, inner = space.reshape([Concat((Product((a, r)), Product((b, r))))], [5, 4])
    assert outer == Concat((a, b))
    assert inner == r


def test_merging_and_splitting_again_returns_the_same_axes() -> None:
    space = Space()
    dims = [space.axis(2), space.axis(3), space.axis(5)]
    merged = space.reshape(dims, [6, 5])
    assert space.reshape(merged, [2, 3, 5]) == dims


def test_length_one_is_no_axis() -> None:
    space = Space()
    a = space.axis(6)
    assert space.axis(1) == ONE
    assert space.reshape([a, ONE], [1, 6, 1]) == [ONE, a, ONE]


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def reshaped(shape: list[int]) -> st.SearchStrategy[list[int]]:
    """Another shape with as many entries, made by moving prime factors about."""

    def regroup(borders: list[int]) -> list[int]:
        primes: list[int] = []
        for n in shape:
            for p in (2, 3, 5):
                while n % p == 0:
                    primes.append(p)
                    n //= p
        cuts = sorted({min(b, len(primes)) for b in borders} | {0, len(primes)})
        return [math.prod(primes[i:j]) for i, j in itertools.pairwise(cuts)] or [1]

    return st.lists(st.integers(0, 8), max_size=3).map(regroup)


@given(shapes.flatmap(lambda s: st.tuples(st.just(s), reshaped(s))))
@settings(max_examples=200, deadline=None)
def test_matching_groups_partition_both_shapes(pair: tuple[list[int], list[int]]) -> None:
    old, new = pair
    groups = matching_groups(old, new)
    assert [n for where, _ in groups for n in old[where]] == old
    assert [n for _, targets in groups for n in targets] == new
    assert all(math.prod(old[where]) == math.prod(targets) for where, targets in groups)


@given(shapes.flatmap(lambda s: st.tuples(st.just(s), reshaped(s))))
@settings(max_examples=200, deadline=None)
def test_reshape_keeps_the_row_major_order_of_units(pair: tuple[list[int], list[int]]) -> None:
    """Every entry of a tensor is labelled with the unit of each axis; after the reshape each dimension must agree."""
    old, new = pair
    space = Space()
    dims = [space.axis(n) for n in old]
    result = space.reshape(dims, new)
    assert [space.size(dim) for dim in result] == new
    if any(space.reasons[axis] for dim in result for axis in space.roots(dim)):
        return  # reshaped across an axis's inner structure: frozen, nothing to compare
    for axis in {axis for dim in dims for axis in space.roots(dim)}:
        before = labels([space.resolve(dim) for dim in dims], axis, space.sizes)
        after = labels([space.resolve(dim) for dim in result], axis, space.sizes)
        assert torch.equal(before.reshape(new), after)


def labels(dims: list[Expression], axis: int, sizes: list[int]) -> torch.Tensor:
    """For every entry of a tensor with these dimensions, its unit along an axis; -1 where it has none."""
    result = torch.full((1,) * len(dims), -1)
    for position, dim in enumerate(dims):
        units = units_along(dim, axis, sizes)
        shape = [1] * len(dims)
        shape[position] = len(units)
        units = units.reshape(shape)
        result = torch.where(units >= 0, units, result)
    return result.expand([len(units_along(dim, axis, sizes)) for dim in dims])
