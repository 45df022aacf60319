"""A history worked out on tensors without values: which tensors a model will have, before it takes any memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from meristem.axes.map import AxisMap
from meristem.axes.trace import traced_again
from meristem.edit.attributes import attribute_steps, edited_bindings
from meristem.edit.caches import cache_steps
from meristem.edit.checks import tensors_of
from meristem.edit.deepen import Replayed, deepen
from meristem.edit.gather import MAX_UNITS
from meristem.edit.hollow import hollow, hollowed
from meristem.edit.journal import Journal, Step
from meristem.edit.record import EditRecord, Record, parsed
from meristem.edit.slots import Successors, module_steps
from meristem.edit.stages import stages
from meristem.edit.state import ParentMoments
from meristem.edit.tree import TreeRecord
from meristem.edit.widths import widened_by
from meristem.errors import EditError, TraceError

MOST = 64
"""So many times as much memory as at its beginning, or its end, no model takes in between."""

ALWAYS = 2**26
"""So many bytes it may take whatever its beginning and its end."""


def most(axes: AxisMap, memory: int) -> int:
    """How many bytes a model may take in between.

    Args:
        axes: its map at the beginning.
        memory: how many bytes it ends with.
    """
    return max(MOST * max(memory, axes.byte_count()), ALWAYS)


def outlined(history: Sequence[Record], axes: AxisMap, check: Callable[[AxisMap], None], memory: int) -> None:
    """Check what a replay of a history will lead to. The model is as it was afterwards, and nothing is taken.

    A model that can be traced only with values is not checked.

    Args:
        history: records of edits, oldest first, that continue the map's history.
        axes: the map of the model.
        check: given the map of then, while the model has tensors of those shapes, without values; raises what is wrong.
        memory: how many bytes it is to end with.

    Raises:
        EditError: the history does not fit the model, or it takes far more memory in between.
        TraceError: the model cannot be run with this structure.
    """
    limit = most(axes, memory)
    with Journal() as journal:
        try:
            journal.apply(hollowed([axes.model]))
            check(_put(journal, history, axes, limit))
        except TraceError:
            journal.rollback()
            if _traceable(axes):
                raise
        finally:
            journal.rollback()


def check_widths(records: Iterable[EditRecord], axes: AxisMap, limit: int) -> Mapping[int, int]:
    """The sizes, by number, that edits of units give to axes; nothing is expanded.

    Args:
        records: the edits, up to one of the module tree.
        axes: the map of the model.
        limit: how many bytes its tensors may take at most, when every axis is as long as it ever is.

    Raises:
        EditError: they belong to another model, or take more.
    """
    sizes: dict[int, int] = {}
    largest = dict(enumerate(axes.sizes))
    for record in records:
        for entry in record.axes:
            axis = axes.by_name.get(entry.axis)
            if axis is None:
                raise EditError(f"the history edits the axis {entry.axis!r}, which this model does not have")
            if sizes.get(axis.index, axis.size) != entry.before:
                raise EditError(f"the history begins with {entry.before} units on {axis.name}, not {axis.size}")
            sizes[axis.index] = entry.after
            largest[axis.index] = max(largest[axis.index], entry.after)
    if max(largest.values(), default=0) > MAX_UNITS:
        raise EditError(f"a record gives an axis more than {MAX_UNITS} units")
    _check_memory(axes.byte_count([largest[axis.index] for axis in axes]), limit)
    return sizes


def _check_memory(needed: int, limit: int) -> None:
    if needed > limit:
        raise EditError(
            f"in between, the history makes the model take {needed:,} bytes, more than {MOST} times what it begins and "
            "ends with"
        )


def _put(journal: Journal, history: Sequence[Record], axes: AxisMap, limit: int) -> AxisMap:
    for records, tree in stages(parsed(history)):
        changes = [Replayed(tree)] if tree is not None else []
        sizes = dict(check_widths(records, axes, limit))
        axes, more = widened_by(axes, changes)
        sizes |= more
        journal.apply(_resized(axes, sizes))
        axes = axes.resized(sizes, {})
        if tree is not None:
            axes = _planted(journal, axes, tree, limit)
    return axes


def _resized(axes: AxisMap, sizes: Mapping[int, int]) -> list[Step]:
    """Steps that give every tensor, and every attribute, the lengths of now."""
    after = [sizes.get(axis.index, axis.size) for axis in axes]
    tensors = tensors_of(axes.model)
    moved = [
        (tensors[layout.name], hollow(tensors[layout.name], layout.shape(after)))
        for layout in axes.layouts.values()
        if layout.name in tensors and layout.shape(after) != layout.shape(axes.sizes)
    ]
    steps = module_steps([axes.model], Successors(moved))
    steps += attribute_steps([axes.model], edited_bindings(axes, sizes), after)
    return [*steps, *cache_steps(axes.model, axes.caches)]


def _planted(journal: Journal, axes: AxisMap, tree: TreeRecord, limit: int) -> AxisMap:
    deepening = deepen(axes, [Replayed(tree)], (), (), ParentMoments(), 0)
    born = {id(tensor): tensor for planting in deepening.plantings for tensor in planting.tensors.values()}
    _check_memory(sum(tensor.numel() * tensor.element_size() for tensor in born.values()), limit)
    journal.apply(deepening.steps())
    return traced_again(axes, axes.history)


def _traceable(axes: AxisMap) -> bool:
    """Whether the model as it is can be traced without values."""
    with Journal() as journal:
        try:
            journal.apply(hollowed([axes.model]))
            traced_again(axes, axes.history)
        except TraceError:
            return False
        finally:
            journal.rollback()
    return True
