"""Newborns with given values: they are what was given, wherever the axis occurs and whatever else is edited."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from meristem.axes import Axis, units_along
from meristem.edit import Edit, Explicit, Gather, ZeroFanOut
from meristem.errors import EditError
from meristem.grow.parts.gathered import Gathered

from .models import NAMES, Subject, subject, trained
from .snapshot import Snapshot, bits_equal, same, values

Tables = dict[tuple[str, int], Tensor]


def tensors(found: Subject) -> dict[str, Tensor]:
    named = [*found.model.named_parameters(), *found.model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


def tables(found: Subject, axis: Axis, count: int) -> Tables:
    """Random values for newborns of an axis, in everything in which it occurs."""
    made: Tables = {}
    for place in found.axes.places[axis.index]:
        tensor = tensors(found)[place.layout.name]
        rows = int((units_along(place.layout.dims[place.dim], axis.index, found.axes.sizes) == 0).sum())
        rest = (*tensor.shape[: place.dim], *tensor.shape[place.dim + 1 :])
        made[place.layout.name, place.dim] = torch.rand(count, rows, *rest, dtype=tensor.dtype) + 0.5
    return made


def grown(found: Subject, *given: tuple[str, int, Tables]) -> Subject:
    """The same model, after axes grew in one edit."""
    edit = Edit(found.axes)
    for axis, count, entries in given:
        edit.gather(axis, Gather.grow(found.axes[axis].size, count), Explicit("given", entries))
    return found.edited(edit.commit().axes)


def belongs(after: Subject, name: str, axis: Axis) -> Tensor:
    """Which entries of a tensor belong to newborns of an axis."""
    shape = tensors(after)[name].shape
    mask = torch.zeros(shape, dtype=torch.bool)
    for dim, expression in enumerate(after.axes.layouts[name].dims):
        mask.movedim(dim, 0)[units_along(expression, axis.index, after.axes.sizes) >= axis.size] = True
    return mask


def without(after: Subject, name: str, axis: Axis) -> Tensor:
    """A tensor without the newborns of an axis."""
    tensor = tensors(after)[name]
    for dim, expression in enumerate(after.axes.layouts[name].dims):
        kept = units_along(expression, axis.index, after.axes.sizes) < axis.size
        tensor = tensor.index_select(dim, kept.nonzero().flatten())
    return tensor


@pytest.mark.parametrize("name", NAMES)
def test_newborns_are_what_was_given_and_incumbents_what_they_were(name: str) -> None:
    for axis in subject(name).axes.editable:
        found = subject(name)
        old, entries = tensors(found), tables(found, axis, 3)
        gathered = Gathered(found.axes, axis, Gather.grow(axis.size, 3))
        after = grown(found, (axis.name, 3, entries))
        for place in found.axes.places[axis.index]:
            made = gathered.table(tensors(after)[place.layout.name], place, gathered.newborns)
            assert torch.equal(made, entries[place.layout.name, place.dim]), place
        assert all(bits_equal(without(after, name, axis), tensor) for name, tensor in old.items())


@pytest.mark.parametrize("name", NAMES)
def test_pruning_the_newborns_restores_every_bit(name: str) -> None:
    for axis in subject(name).axes.editable:
        found = subject(name)
        optimizer = trained(found, partial(torch.optim.AdamW, lr=1e-2))
        before = values(found.model)[0], values(optimizer)
        gather = Gather.grow(axis.size, 2)
        edit = Edit(found.axes, optimizer).gather(axis, gather, Explicit("given", tables(found, axis, 2)))
        Edit(edit.commit().axes, optimizer).prune(axis.name, [axis.size, axis.size + 1]).commit()
        assert same((values(found.model)[0], values(optimizer)), before)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("mlp", "0", "2"),  # adjacent
        ("conv_flatten_linear", "4", "7"),  # flattened positions
        ("swiglu", "down", "gate"),
        ("two_inputs_dict_output", "left", "right"),  # concatenated
        ("unet", "down1", "up"),
        ("dense_block", "stem", "second"),
        ("bare_einsum", "mixing", "mixing#2"),  # two dimensions of one tensor
        ("resnext", "reduce[0]", "reduce[1]"),  # two axes in one dimension
        ("transposed_groups", "trunk.0[0]", "trunk.2"),
        ("grouped_query", "query[0]", "query[1]"),
    ],
)
@pytest.mark.parametrize("exchanged", [False, True])
def test_two_axes_in_one_edit_are_each_as_alone(name: str, one: str, two: str, exchanged: bool) -> None:
    """What newborns of both have in common is zero."""
    found = subject(name)
    first, second = (found.axes[axis] for axis in ((two, one) if exchanged else (one, two)))
    given = (first.name, 2, tables(found, first, 2)), (second.name, 3, tables(found, second, 3))
    alone = [grown(subject(name), each) for each in given]
    both = grown(found, *given)
    for key, tensor in tensors(both).items():
        assert bits_equal(without(both, key, second), tensors(alone[0])[key])
        assert bits_equal(without(both, key, first), tensors(alone[1])[key])
        common = belongs(both, key, first) & belongs(both, key, second)
        assert not tensor[common].any()


def test_all_axes_in_one_edit() -> None:
    for name in NAMES:
        found = subject(name)
        given = [
            (axis.name, 1 + axis.index % 3, tables(found, axis, 1 + axis.index % 3)) for axis in found.axes.editable
        ]
        sizes = {axis: found.axes[axis].size + count for axis, count, _ in given}
        after = grown(found, *given)
        assert {axis: after.axes[axis].size for axis in sizes} == sizes
        assert after.loss().isfinite()


def test_where_nothing_is_given_another_choice_fills_in() -> None:
    found, plain = subject("mlp"), subject("mlp")
    given = {"0.bias": torch.full((2, 1), 7.0, dtype=torch.float64)}
    after = grown(found, ("0", 2, {(name, 0): tensor for name, tensor in given.items()}))
    axis = plain.axes["0"]
    Edit(plain.axes).gather(axis, Gather.grow(axis.size, 2), ZeroFanOut()).commit()
    assert torch.equal(tensors(after)["0.bias"][-2:], given["0.bias"].flatten())
    assert bits_equal(tensors(after)["0.weight"], tensors(plain)["0.weight"])
    assert not tensors(after)["2.weight"][:, -2:].any()


def test_the_first_newborns_alone_and_moves_of_incumbents() -> None:
    found, fewer = subject("mlp"), subject("mlp")
    entries = tables(found, found.axes["0"], 3)
    start = Explicit("given", entries, ("why",), moves={"0.weight": torch.ones(14, 6)})
    edit = Edit(fewer.axes).gather("0", Gather.grow(12, 2), Explicit.first(start, 2))
    assert start.inexact(fewer.axes["0"], Gather.grow(12, 2)) == ("why",)
    edit.commit()
    moved = fewer.model.get_parameter("0.weight").detach()
    torch.testing.assert_close(moved[:12], tensors(found)["0.weight"] + 1, rtol=0, atol=1e-15)
    assert torch.equal(moved[12:], entries["0.weight", 0][:2].flatten(0, 1))


def test_values_are_cast_to_the_type_of_the_model() -> None:
    found = subject("mlp")
    entries = {key: table.float() for key, table in tables(found, found.axes["0"], 2).items()}
    after = grown(found, ("0", 2, entries))
    assert all(tensor.dtype == torch.float64 for tensor in tensors(after).values())


@pytest.mark.parametrize("wrong", ["newborns", "rows", "others", "flat"])
@pytest.mark.parametrize(("name", "axis"), [("mlp", "0"), ("conv_flatten_linear", "4"), ("grouped_query", "query[0]")])
def test_wrong_shapes_are_refused_and_nothing_changes(name: str, axis: str, wrong: str) -> None:
    found = subject(name)
    entries = tables(found, found.axes[axis], 2)
    key = next(key for key, table in entries.items() if table.dim() > 2)
    table = entries[key]
    entries[key] = {
        "newborns": table[:1],
        "rows": torch.cat([table, table], 1),
        "others": table[..., :-1],
        "flat": table.flatten(1),
    }[wrong]
    before = Snapshot([found.model])
    with pytest.raises(
        EditError, match=rf"given gave newborns of shape .* for dimension {key[1]} of {key[0]}; expected"
    ):
        grown(found, (axis, 2, entries))
    before.check()
