"""How what takes part is called, and what it says of itself."""

from __future__ import annotations

from typing import Final, get_args

from meristem.study.studies.grid.contender import Course, Level, Timing
from meristem.study.studies.grid.entries import contest

COURSES: Final = get_args(Course)

SCHEDULES: dict[Timing, str] = {"fixed": "fixed schedule", "own": "each method's own schedule"}


def name(
    course: Course, grow: str | None, prune: str | None, form: str, schedule: Timing = "fixed", level: Level = "neuron"
) -> str:
    """The name of an arm that is no fixed net and no method with a name of its own."""
    return f"{contest(level, course)}: {called(what(grow, prune), form, schedule)}"


def called(what: str, form: str, schedule: Timing) -> str:
    """The same without its contest."""
    return f"{what}, {form}{', own schedule' if schedule == 'own' else ''}"


def what(grow: str | None, prune: str | None) -> str:
    """Who decides who dies, and what is born."""
    return " + ".join(part for part in (prune, grow) if part is not None)


def words(level: str, grow: str | None, prune: str | None, schedule: Timing) -> str:
    """A sentence."""
    died = None if prune is None else f"{prune} decides who dies"
    born = None if grow is None else f"{grow} who is born"
    return f"{level}: {', '.join(part for part in (died, born) if part is not None)}; {SCHEDULES[schedule]}"
