"""The record of an edit as JSON, and its replay on a freshly built model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from meristem.axes import trace
from meristem.axes.expression import NEWBORN
from meristem.axes.map import AxisMap
from meristem.edit.compute import Change
from meristem.edit.gather import MAX_UNITS, Gather
from meristem.errors import EditError

Record = Mapping[str, Any]


def record_of(changes: Iterable[Change]) -> dict[str, Any]:
    """One edit as JSON: for each axis its name, its size before, the new units and what newborns started from.

    `units` lists runs `[first source, length]` of consecutive sources; a run of units without a source has the first
    source -1. `duplicates` lists the new units that copy another unit, as runs `[first unit, length]`.
    """
    return {
        "axes": [
            {
                "axis": change.axis.name,
                "before": change.axis.size,
                "units": runs(change.gather.sources),
                "duplicates": runs(_duplicates(change.gather)),
                "start": repr(change.start) if change.gather.has_newborns else None,
            }
            for change in changes
        ]
    }


def gathers_of(record: Record) -> list[tuple[str, int, Gather]]:
    """The name, the size before and the gather of each axis in a record.

    Raises:
        EditError: the record is malformed.
    """
    try:
        return [(str(entry["axis"]), int(entry["before"]), _gather(entry)) for entry in record["axes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EditError(f"malformed record of an edit: {error!r}") from error


def sizes_after(history: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """For each edited axis its size before and after a whole history, after a check that the records chain.

    Nothing is expanded, so that a hostile history costs no memory.
    """
    sizes: dict[str, tuple[int, int]] = {}
    try:
        for record in history:
            for entry in record["axes"]:
                name, before = str(entry["axis"]), int(entry["before"])
                first, current = sizes.get(name, (before, before))
                if current != before:
                    raise EditError(f"the history does not chain: {name} has {current} units, a record says {before}")
                sizes[name] = first, _length(entry["units"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, EditError):
            raise
        raise EditError(f"malformed history: {error!r}") from error
    return sizes


def composed(history: Sequence[Record]) -> dict[str, Gather]:
    """One gather per axis that does what the whole history did."""
    sizes_after(history)
    total: dict[str, Gather] = {}
    for record in history:
        for name, _, gather in gathers_of(record):
            total[name] = total[name].then(gather) if name in total else gather
    return total


def replay(history: Sequence[Record], model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> AxisMap:
    """Apply the structural part of a history to a freshly built model, all edits as one.

    Args:
        history: `axes.history` of an edited model, or the same read back from JSON.
        model: a model as it was before the first edit.
        args, kwargs: example inputs, as for `trace`.

    Returns:
        The map of the edited model; its history is `history`. Newborns start anew as in random growth: what they have
        learned is in a checkpoint, not in the history.

    Raises:
        EditError: the history is malformed or belongs to another model; nothing is touched.
    """
    return replayed(history, trace(model, args, kwargs))


def replayed(history: Sequence[Record], axes: AxisMap) -> AxisMap:
    """Apply a history to a model that has been traced already; see `replay`."""
    edit = replaying(history, axes)
    result = axes if edit is None else edit.commit().axes
    return replace(result, history=tuple(history))


def replaying(history: Sequence[Record], axes: AxisMap, optimizers: Sequence[Any] = ()) -> Any:
    """The edit that a history amounts to, not yet committed; None if nothing changes."""
    from meristem.edit.edit import Edit  # an edit records itself here

    edit = Edit(axes, optimizers)
    for name, (before, _) in sizes_after(history).items():
        if name not in axes.by_name:
            raise EditError(f"the history edits the axis {name!r}, which this model does not have")
        if axes[name].size != before:
            raise EditError(f"the history begins with {before} units on {name}, this model has {axes[name].size}")
    for name, gather in composed(history).items():
        if not gather.is_identity(axes[name].size):
            edit.gather(name, gather)
    return edit if edit.changes else None


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """Runs `[first, length]` of numbers that rise by one, and of repeated -1."""
    found: list[list[int]] = []
    for number in numbers:
        last = found[-1] if found else None
        if last is not None and (last[0] == number if number == NEWBORN else 0 <= last[0] == number - last[1]):
            last[1] += 1
        else:
            found.append([number, 1])
    return found


def _duplicates(gather: Gather) -> list[int]:
    pairs = zip(gather.sources, gather.newborn, strict=True)
    return [unit for unit, (source, new) in enumerate(pairs) if new and source != NEWBORN]


def _gather(entry: Mapping[str, Any]) -> Gather:
    _length(entry["units"])
    sources = [n for first, length in entry["units"] for n in _run(first, length)]
    _length(entry["duplicates"])
    duplicates = {n for first, length in entry["duplicates"] for n in _run(first, length)}
    newborn = tuple(source == NEWBORN or unit in duplicates for unit, source in enumerate(sources))
    return Gather(tuple(sources), newborn)


def _run(first: int, length: int) -> Sequence[int]:
    return [NEWBORN] * length if first == NEWBORN else range(first, first + length)


def _length(run_list: Any) -> int:
    total = 0
    for first, length in run_list:
        if type(first) is not int or type(length) is not int or first < NEWBORN or length < 1:
            raise ValueError(f"a run is a first number and a length, got {first!r}, {length!r}")
        total += length
    if total > MAX_UNITS:
        raise ValueError(f"an axis of {total} units is longer than {MAX_UNITS}")
    return total
