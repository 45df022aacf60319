"""What a monitor has seen: the courses of axes, records, deaths and integrations, all bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from meristem.diagnose.course import Course
from meristem.diagnose.integration import Integration
from meristem.diagnose.record import Cohort, Death, Record
from meristem.edit.record import parsed
from meristem.edit.succession import Succession


@dataclass
class Memory:
    """Of more than `keep` records every second one is dropped; of deaths and integrations the last `keep` stay.

    Attributes:
        keep: how many.
        cohorts: how many of an axis are told apart.
        courses: by name of axis.
        integrations: by name of axis and step of birth.
        records, deaths: oldest first.
        fresh: the deaths that no record has yet.
    """

    keep: int
    cohorts: int
    courses: dict[str, Course] = field(default_factory=dict)
    integrations: dict[tuple[str, int], Integration] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    fresh: list[Death] = field(default_factory=list)

    def edited(self, history: Sequence[Mapping[str, Any]], step: int) -> None:
        """These edits were made at a step."""
        for record in parsed(history):
            for entry in record.axes:
                if entry.axis in self.courses:
                    self.courses[entry.axis], deaths = self.courses[entry.axis].after(entry.gather(), step)
                    self._died(deaths)
            if record.after is not None:
                self._followed(record.after, step)
        del self.deaths[: -self.keep], self.fresh[: -self.keep]

    def _followed(self, after: Succession, step: int) -> None:
        """The module tree was edited at a step: courses go by the names of now, those of new layers begin."""
        courses = after.carried(self.courses, lambda several: several[0])
        lasting = {id(course) for course in courses.values()}
        for course in self.courses.values():
            if id(course) not in lasting:
                self._died(course.ended(step))
        self.courses = {name: replace(course, name=name) for name, course in courses.items()}
        self.courses |= {name: Course(name, (step,) * size) for name, size in after.born.items()}
        self.integrations = {
            (name, born): replace(found, axis=name)
            for (axis, born), found in self.integrations.items()
            for name in after.names([axis]) or [axis]
        }

    def _died(self, deaths: Sequence[Death]) -> None:
        self.fresh.extend(deaths)
        self.deaths.extend(deaths)

    def sampled(
        self,
        tables: Mapping[str, Tensor],
        silent: Mapping[str, str],
        norms: Mapping[str, tuple[Tensor, Tensor]],
        step: int,
    ) -> Record:
        """A step was measured; its record."""
        axes, survivors = {}, {}
        for name, table in tables.items():
            self.courses[name], stability = self.courses[name].sampled(table, step)
            axis = self.courses[name].record(step, self.cohorts)
            axes[name] = replace(axis, cohorts=tuple(self._integrated(name, cohort) for cohort in axis.cohorts))
            if stability is not None:
                survivors[name] = stability
        others = {name: self.courses[name].unmeasured(squares, step) for name, squares in norms.items()}
        unmeasured = {name: found for name, found in others.items() if found is not None}
        record = Record(step, axes, survivors, tuple(self.fresh), dict(silent), unmeasured)
        self.fresh = []
        self.records.append(record)
        if len(self.records) > self.keep:
            self.records = self.records[::-2][::-1]
        return record

    def _integrated(self, axis: str, cohort: Cohort) -> Cohort:
        key = (axis, cohort.born)
        known = self.integrations.get(key, Integration(axis, cohort.born)).seen(cohort.age, cohort.gradient)
        self.integrations[key] = known
        if len(self.integrations) > self.keep:
            del self.integrations[next(iter(self.integrations))]
        return replace(cohort, first=known.first, lasting=known.lasting)
