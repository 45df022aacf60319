"""The record of an edit as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from meristem.axes.expression import NEWBORN
from meristem.edit.compute import Change
from meristem.edit.gather import MAX_UNITS, Gather
from meristem.edit.succession import Succession
from meristem.edit.tree import TreeRecord
from meristem.errors import EditError

Record = Mapping[str, Any]
Run = tuple[Annotated[int, Field(ge=NEWBORN, le=MAX_UNITS)], Annotated[int, Field(ge=1, le=MAX_UNITS)]]


class AxisRecord(BaseModel):
    """What an edit did to one axis.

    Attributes:
        axis: its name.
        before: its size before.
        units: the sources of the new units as runs `(first source, length)`; a run of units without a source is -1.
        duplicates: the new units that copy another unit, as runs `(first unit, length)`.
        start: what newborns started from, for people.
    """

    model_config = ConfigDict(extra="forbid")

    axis: str
    before: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    units: list[Run]
    duplicates: list[Run] = []
    start: str | None = None

    @property
    def after(self) -> int:
        """The size of the axis after the edit."""
        return sum(length for _, length in self.units)

    def gather(self) -> Gather:
        """The units in full. Raises `EditError` if they are no gather."""
        if max(self.after, sum(length for _, length in self.duplicates)) > MAX_UNITS:
            raise EditError(f"a record gives {self.axis} more than {MAX_UNITS} units")
        sources = [unit for run in self.units for unit in _expanded(*run)]
        duplicates = {unit for run in self.duplicates for unit in _expanded(*run)}
        newborn = tuple(source == NEWBORN or unit in duplicates for unit, source in enumerate(sources))
        if max(sources, default=0) >= self.before:
            raise EditError(f"a record names unit {max(sources)} of {self.axis}, which had {self.before}")
        return Gather(tuple(sources), newborn)


class EditRecord(BaseModel):
    """What one edit did: first to axes, then to the module tree.

    Attributes:
        axes: what it did to each axis.
        depth: what it did to the module tree.
        after: which axes there are afterwards; None where the module tree stays, and in records of earlier versions.
    """

    model_config = ConfigDict(extra="forbid")

    axes: list[AxisRecord]
    depth: TreeRecord | None = None
    after: Succession | None = None


_HISTORY = TypeAdapter(list[EditRecord])


def record_of(
    changes: Iterable[Change], depth: TreeRecord | None = None, after: Succession | None = None
) -> dict[str, Any]:
    """One edit as a JSON-able dict; the fields are those of `EditRecord`."""
    axes = [
        AxisRecord(
            axis=change.axis.name,
            before=change.axis.size,
            units=runs(change.gather.sources),
            duplicates=runs(_duplicates(change.gather)),
            start=repr(change.start) if change.gather.has_newborns else None,
        )
        for change in changes
    ]
    record = EditRecord(axes=axes, depth=depth, after=after)
    return record.model_dump(mode="json", exclude={"depth", "after"} if depth is None else None)


def parsed(history: Sequence[Record]) -> list[EditRecord]:
    """A history, checked. Raises `EditError` if it is malformed or its sizes do not follow from one another."""
    try:
        records = _HISTORY.validate_python([dict(record) for record in history])
    except (ValidationError, TypeError, ValueError) as error:
        raise EditError(f"malformed history of edits: {error}") from error
    sizes: dict[str, int] = {}
    for record in records:
        for entry in record.axes:
            if sizes.setdefault(entry.axis, entry.before) != entry.before:
                raise EditError(
                    f"the history does not follow: {entry.axis} has {sizes[entry.axis]} units, "
                    f"the next record says {entry.before}"
                )
            sizes[entry.axis] = entry.after
        if record.depth is not None:
            sizes.clear()  # the axes after it are others
    return records


def spans(records: Iterable[EditRecord]) -> dict[str, tuple[int, int]]:
    """For each edited axis its size before and after a whole history. Nothing is expanded: huge sizes cost nothing."""
    sizes: dict[str, tuple[int, int]] = {}
    for record in records:
        for entry in record.axes:
            first, _ = sizes.get(entry.axis, (entry.before, 0))
            sizes[entry.axis] = first, entry.after
    return sizes


def composed(records: Iterable[EditRecord]) -> dict[str, Gather]:
    """One gather per axis that does what the whole history did."""
    total: dict[str, Gather] = {}
    for record in records:
        for entry in record.axes:
            gather = entry.gather()
            total[entry.axis] = total[entry.axis].then(gather) if entry.axis in total else gather
    return total


def runs(numbers: Sequence[int]) -> list[Run]:
    """Runs `(first, length)` of numbers that rise by one, and of repeated -1."""
    found: list[Run] = []
    first, expected, start = NEWBORN - 1, NEWBORN - 1, 0
    for place, number in enumerate(numbers):
        if number != expected:
            if place:
                found.append((first, place - start))
            first, start = number, place
        expected = NEWBORN if number == NEWBORN else number + 1
    if numbers:
        found.append((first, len(numbers) - start))
    return found


def _duplicates(gather: Gather) -> list[int]:
    if not gather.has_newborns:
        return []
    pairs = zip(gather.sources, gather.newborn, strict=True)
    return [unit for unit, (source, new) in enumerate(pairs) if new and source != NEWBORN]


def _expanded(first: int, length: int) -> Sequence[int]:
    return [NEWBORN] * length if first == NEWBORN else range(first, first + length)
