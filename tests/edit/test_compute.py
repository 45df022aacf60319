"""The new tensors against a loop over entries, for dimensions written as products and concatenations."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meristem.axes import Axis, AxisMap, Concat, Leaf, Product, Role, TensorLayout
from meristem.axes.expression import size_of, units_along
from meristem.edit import Gather, ZeroFanOut
from meristem.edit.compute import Change, Computation, gathered, select
from meristem.edit.indices import Indices

from .test_gather import gathers

SIZES = (3, 2, 4)
DIMS = (
    Leaf(0),
    Leaf(2),
    Product((Leaf(0), Leaf(1))),
    Product((Leaf(1), Leaf(2))),
    Concat((Leaf(0), Leaf(2))),
    Concat((Product((Leaf(0), Leaf(1))), Leaf(2), Leaf(1))),
    Product((Concat((Leaf(0), Leaf(1))), Leaf(2))),
)
MODEL = nn.Identity()


def make_map(dims, roles=frozenset({Role.PRODUCES})) -> AxisMap:
    axes = tuple(Axis(i, "abc"[i], n, "units", None, frozenset()) for i, n in enumerate(SIZES))
    layout = TensorLayout("w", ("w",), False, dims, tuple(dict.fromkeys(range(3), roles) for _ in dims), None)
    return AxisMap(axes, {"w": layout}, (), (), (), weakref.ref(MODEL))


def units(expression, sizes) -> list[tuple]:
    """For each index along a dimension, which unit of which axis it belongs to; the piece of a concat is part of it."""
    if isinstance(expression, Leaf):
        return [((expression.axis, unit),) for unit in range(sizes[expression.axis])]
    if isinstance(expression, Product):
        factors = [units(factor, sizes) for factor in expression.factors]
        return [tuple(itertools.chain(*combined)) for combined in itertools.product(*factors)]
    return [(("piece", n), *entry) for n, part in enumerate(expression.parts) for entry in units(part, sizes)]


def source(entry, changes) -> tuple | None:
    """The old entry that a new one copies, or None."""
    old = []
    for axis, unit in entry:
        unit = changes[axis].gather.sources[unit] if axis in changes else unit
        if axis != "piece" and unit < 0:
            return None
        old.append((axis, unit))
    return tuple(old)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_entry_comes_from_where_it_should(data):
    dims = tuple(data.draw(st.lists(st.sampled_from(DIMS), min_size=1, max_size=3)))
    edited = data.draw(st.sets(st.integers(0, 2), min_size=1))
    axes = make_map(dims)
    changes = {i: Change(axes.axes[i], data.draw(gathers(SIZES[i])), ZeroFanOut()) for i in edited}
    order = data.draw(st.permutations(range(len(dims))))
    shape = [size_of(dim, SIZES) for dim in dims]
    old = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64).reshape([shape[d] for d in order])
    old = old.permute(sorted(range(len(dims)), key=order.__getitem__))
    computation = Computation(axes, list(changes.values()), seed=0)
    new, recipe = computation.tensor(axes.layouts["w"], old)
    state = gathered(old, recipe)
    before = [{entry: i for i, entry in enumerate(units(dim, SIZES))} for dim in dims]
    sizes = [len(changes[i].gather) if i in changes else n for i, n in enumerate(SIZES)]
    after = [units(dim, sizes) for dim in dims]
    assert tuple(new.shape) == tuple(state.shape) == tuple(len(a) for a in after)
    for place in itertools.product(*(range(len(a)) for a in after)):
        entries = [source(after[d][i], changes) for d, i in enumerate(place)]
        if any(entry is None for entry in entries):
            assert state[place] == 0
            assert new[place] not in old
        else:
            expected = old[tuple(before[d][entry] for d, entry in enumerate(entries) if entry is not None)]
            assert new[place] == state[place] == expected


def test_the_memory_order_is_kept():
    weight = torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert select(weight, 1, torch.tensor([0, 2])).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(select(weight, 1, torch.tensor([0, 2])), weight[:, [0, 2]])
    transposed = torch.randn(5, 7).t()
    assert select(transposed, 0, torch.tensor([1, 1, 6])).t().is_contiguous()
    assert select(torch.randn(1, 4).expand(3, 4), 0, torch.tensor([0])).shape == (1, 4)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_born_positions_are_those_without_a_source(data):
    expression = data.draw(st.sampled_from(DIMS))
    edited = data.draw(st.sets(st.integers(0, 2), min_size=1))
    made = {axis: data.draw(gathers(SIZES[axis])) for axis in edited}
    indices = Indices(made, SIZES)
    length = len(indices.along(expression, torch.device("cpu")).index)
    sourceless = torch.zeros(length, dtype=torch.bool)
    for axis in indices.edited(expression):
        sources = indices.sources(expression, axis)
        assert len(sources) == length
        born = indices.born(expression, axis, sourceless=True)
        assert born.tolist() == (sources < 0).nonzero().flatten().tolist()
        sourceless[born] = True
        every = indices.born(expression, axis, sourceless=False)
        unit = units_along(expression, axis, indices.after)
        mask = made[axis].newborn_mask[unit.clamp(min=0)] & (unit >= 0)
        assert every.tolist() == mask.nonzero().flatten().tolist()
    assert torch.equal(sourceless, indices.along(expression, torch.device("cpu")).index < 0)


class TestZeroFanOut:
    """What newborns start from, by role."""

    def born(self, roles, neutral=None, old=None) -> torch.Tensor:
        axes = make_map((Leaf(0), Leaf(2)), roles)
        layout = axes.layouts["w"]
        layout = TensorLayout("w", ("w",), False, layout.dims, layout.roles, neutral)
        old = torch.randn(3, 4, dtype=torch.float64) * 5 if old is None else old
        change = Change(axes.axes[0], Gather.grow(3, 2000), ZeroFanOut())
        return Computation(axes, [change], seed=0).tensor(layout, old)[0][3:]

    def test_reading_entries_are_zero(self):
        assert not self.born(frozenset({Role.READS})).any()
        assert not self.born(frozenset({Role.READS, Role.PRODUCES})).any()

    def test_carried_entries_are_neutral(self):
        assert (self.born(frozenset({Role.CARRIES}), neutral=1.0) == 1).all()
        assert self.born(frozenset({Role.CARRIES})).std() > 0

    def test_producing_entries_have_the_incumbents_scale(self):
        old = torch.randn(3, 4) * 5
        born = self.born(frozenset({Role.PRODUCES}), old=old)
        assert float(born.std()) == pytest.approx(float(old.square().mean().sqrt()), rel=0.05)

    def test_producing_entries_of_a_zero_tensor_have_kaimings(self):
        born = self.born(frozenset({Role.PRODUCES}), old=torch.zeros(3, 4))
        assert float(born.std()) == pytest.approx((2 / 4) ** 0.5, rel=0.05)

    def test_whole_numbers_start_at_zero(self):
        assert not self.born(frozenset({Role.PRODUCES}), old=torch.ones(3, 4, dtype=torch.int64)).any()

    def test_successive_edits_draw_different_numbers_and_the_same_edit_the_same(self):
        axes = make_map((Leaf(0), Leaf(2)))
        changes = [Change(axes.axes[0], Gather.grow(3, 2), ZeroFanOut())]
        old = torch.randn(3, 4)

        def born(axes, seed=0):
            return Computation(axes, changes, seed).tensor(axes.layouts["w"], old)[0][3:]

        assert torch.equal(born(axes), born(axes))
        assert not torch.equal(born(axes), born(axes, seed=1))
        assert not torch.equal(born(axes), born(axes.resized({}, {"axes": []})))
