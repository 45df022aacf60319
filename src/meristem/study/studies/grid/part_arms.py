"""What takes part at the levels of layers and cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from meristem.study.studies.grid.cells import Cell, Cells
from meristem.study.studies.grid.contender import Course, Timing
from meristem.study.studies.grid.entries import FORMS, NAIVE, SAFE, Entry, form_of
from meristem.study.studies.grid.layers import Layer, Layers
from meristem.study.studies.grid.naming import COURSES, called, what, words
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.settings import Size
from meristem.study.studies.grid.sprout import Sprouting

WHOLE_LAYERS: tuple[Layer, ...] = ("random", "identity", "residual")
"""Layers that are born as they are; the others get their units from a growth method."""

WHOLE_BRANCHES: tuple[Cell, ...] = ("copy", "random")
"""The same of branches."""


def layers(size: Size) -> Iterator[Entry]:
    """Layers that come and go."""
    for schedule in get_args(Timing):
        for course in COURSES:
            for prune in (None, *get_args(Pruning)):
                for grow in (None, *WHOLE_LAYERS):
                    if (grow is not None, prune is not None) == _needed(course):
                        yield from _forms(size, course, grow, prune, schedule)
        for course, prune, grow, form in _sprouts(("L1", "polarization")):
            norm, insertion = FORMS[form]
            way = Layers(grow=grow, prune=prune, insertion=insertion, schedule=schedule, strength=size.strength)
            shown = called(what(grow, prune), form, schedule), words("layers", grow, prune, schedule)
            yield Entry("layer", course, norm, way, *shown, schedule == "fixed", further=schedule == "own")


def cells() -> Iterator[Entry]:
    """Branches that come and go."""
    for schedule in get_args(Timing):
        for course in COURSES:
            born, dies = _needed(course)
            for grow in WHOLE_BRANCHES if born else (None,):
                way = Cells(grow=grow, prune="L1" if dies else None, schedule=schedule)
                for norm in (False, True):
                    further = schedule == "own" and not norm
                    shown = called(what(grow, way.prune), form_of(norm), schedule)
                    said = words("branches", grow, way.prune, schedule)
                    yield Entry("cell", course, norm, way, shown, said, not further, further=further)
        for course, prune, grow, form in _sprouts(("L1",)):
            norm, insertion = FORMS[form]
            way = Cells(grow=grow, prune=prune, insertion=insertion, schedule=schedule)
            shown = called(what(grow, prune), form, schedule), words("branches", grow, prune, schedule)
            yield Entry("cell", course, norm, way, *shown, schedule == "fixed", further=schedule == "own")


def normalized_cells(size: Size) -> Iterator[Entry]:
    """Branches with batch normalizations of their own that come and go under polarization, which judges by these."""
    ways: list[tuple[Course, Cell | None, str]] = [("shrinking", None, NAIVE)]
    ways.extend((course, grow, NAIVE) for course in COURSES for grow in WHOLE_BRANCHES)
    ways.extend((course, grow, form) for course, prune, grow, form in _sprouts(("polarization",)) if prune)
    for schedule in get_args(Timing):
        for course, grow, form in ways:
            settings: dict[str, Any] = {"insertion": FORMS[form][1], "schedule": schedule, "strength": size.strength}
            way = Cells(grow=grow, prune="polarization", **settings)
            shown = called(what(grow, "polarization"), form, schedule)
            said = words("branches", grow, "polarization", schedule)
            yield Entry("normalized cell", course, True, way, shown, said, further=True)


def _needed(course: Course) -> tuple[bool, bool]:
    """Whether something is born, and whether something dies."""
    return course != "shrinking", course != "growing"


def _forms(size: Size, course: Course, grow: Layer | None, prune: Pruning | None, schedule: Timing) -> Iterator[Entry]:
    """Claims are about own schedules with batch normalization, safe where there is a choice; in pairs with L1."""
    paired = grow is not None and prune == "polarization"
    for form, (norm, insertion) in FORMS.items():
        if (prune == "polarization" and not norm) or (insertion == "safe" and grow != "identity"):
            continue
        further = schedule == "own" and (paired or form != (SAFE if grow == "identity" else NAIVE))
        way = Layers(grow=grow, prune=prune, insertion=insertion, schedule=schedule, strength=size.strength)
        shown, said = called(what(grow, prune), form, schedule), words("layers", grow, prune, schedule)
        tested = prune != "polarization" and not further
        yield Entry("layer", course, norm, way, shown, said, tested, further=further)


def _sprouts(criteria: tuple[Pruning, ...]) -> Iterator[tuple[Course, Pruning | None, Sprouting, str]]:
    """Growth methods alone in every form, and with criteria behind batch normalization. Firefly has no gate here."""
    for grow in get_args(Sprouting):
        safe = [] if grow == "Firefly" else [SAFE]
        for form in (*(form_of(norm) for norm in (False, True)), *safe):
            yield "growing", None, grow, form
        for course in COURSES:
            for prune in criteria:
                for form in (NAIVE, *safe):
                    yield course, prune, grow, form
