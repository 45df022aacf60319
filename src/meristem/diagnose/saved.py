"""What a monitor saves, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import Any, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from meristem.allocate import Selection, choose
from meristem.axes.map import AxisMap
from meristem.diagnose.course import Course
from meristem.diagnose.integration import Integration
from meristem.diagnose.memory import Memory
from meristem.diagnose.record import MEASURES, Death, Record
from meristem.diagnose.watched import Watched
from meristem.edit.record import parsed
from meristem.errors import CheckpointError

Rows: TypeAlias = "tuple[tuple[float | None, ...], ...] | None"
"""By measure and unit; None where it is not a number."""


class SavedCourse(BaseModel):
    """A `Course`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    born: tuple[int, ...]
    last: Rows
    seen: int
    removed: int
    earlier: Rows

    @classmethod
    def of(cls, c: Course) -> SavedCourse:
        """What is to be saved."""
        last, earlier = _rows(c.last), _rows(c.earlier)
        return cls(name=c.name, born=c.born, last=last, seen=c.seen, removed=c.removed, earlier=earlier)

    def course(self) -> Course:
        """The course. Raises `CheckpointError` if numbers are missing."""
        return Course(self.name, self.born, self._table(self.last), self.seen, self.removed, self._table(self.earlier))

    def _table(self, rows: Rows) -> Tensor | None:
        if rows is None:
            return None
        if [len(row) for row in rows] != [len(self.born)] * len(MEASURES):
            raise CheckpointError(f"a sample of {self.name} has another shape than its {len(self.born)} units")
        return torch.tensor([[nan if x is None else x for x in row] for row in rows], dtype=torch.float64)


def _rows(table: Tensor | None) -> Rows:
    return None if table is None else tuple(tuple(None if isnan(x) else x for x in row) for row in table.tolist())


class Saved(BaseModel):
    """Everything that a monitor remembers.

    Attributes:
        step: number of optimizer steps so far.
        sample: the next one to be heard.
        extra: the last one after which an edit made the next one heard.
        skipped: how many samples were not finite.
        courses: of every watched axis.
        integrations, records, deaths: what was seen.
        fresh: deaths that no record has yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: NonNegativeInt
    sample: NonNegativeInt
    extra: int | None
    skipped: NonNegativeInt
    courses: list[SavedCourse]
    integrations: tuple[Integration, ...]
    records: tuple[Record, ...]
    deaths: tuple[Death, ...]
    fresh: tuple[Death, ...]

    @classmethod
    def of(cls, memory: Memory, step: int, sample: int, extra: int | None, skipped: int) -> Saved:
        """What is to be saved."""
        return cls(
            step=step,
            sample=sample,
            extra=extra,
            skipped=skipped,
            courses=[SavedCourse.of(course) for course in memory.courses.values()],
            integrations=tuple(memory.integrations.values()),
            records=tuple(memory.records),
            deaths=tuple(memory.deaths),
            fresh=tuple(memory.fresh),
        )

    def memory(self, keep: int, cohorts: int) -> Memory:
        """What a monitor with these bounds goes on with."""
        return Memory(
            keep,
            cohorts,
            courses={saved.name: saved.course() for saved in self.courses},
            integrations={(found.axis, found.born): found for found in self.integrations},
            records=list(self.records),
            deaths=list(self.deaths),
            fresh=list(self.fresh),
        )

    def watched(self, axes: AxisMap, selection: Selection) -> Watched:
        """The axes that it is of, in a model that holds the edits of the saved run: those that were chosen, or, if the
        module tree has been edited, those of these names.

        Raises:
            CheckpointError: the state belongs to another model.
            ConfigError: there is no axis whose activity can be measured.
        """
        found = {course.name: len(course.born) for course in self.courses}
        deep = any(record.after is not None for record in parsed(axes.history))
        same = [axes.by_name[name] for name in found if name in axes.by_name]
        watched = Watched.of(axes, same if deep else choose(axes, selection))
        sizes = {name: axes.by_name[name].size for name in watched.known}
        if found != sizes:
            raise CheckpointError(
                f"the state is of another model, or its edits were not replayed: expected the axes {sizes}, got {found}"
            )
        return watched

    @classmethod
    def parse(cls, state: Mapping[str, Any]) -> Saved:
        """Raises `CheckpointError` if the state is malformed."""
        try:
            return cls.model_validate(dict(state))
        except (ValidationError, TypeError, ValueError) as error:
            raise CheckpointError(f"this is no state of a Monitor: {error}") from error
