"""What takes part: fixed nets, the grid of the Darmstadt project, methods with their own schedules, other levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from meristem.study.studies.grid.contender import Course, Level, Timing
from meristem.study.studies.grid.entries import ENDS, FORMS, HALVES, NAIVE, SAFE, Entry, contest, fixed_nets, form_of
from meristem.study.studies.grid.insertion import Growing
from meristem.study.studies.grid.naming import COURSES, SCHEDULES, called, what, words
from meristem.study.studies.grid.neurons import Neurons
from meristem.study.studies.grid.part_arms import cells, layers, normalized_cells
from meristem.study.studies.grid.rewired import Wiring
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.settings import Size
from meristem.study.studies.grid.submission import Submitted, read
from meristem.study.studies.grid.weights import Named, Weights
from meristem.study.study import Arm

PUBLISHED: tuple[Growing, ...] = ("GradMax", "GradMax-Opt", "Firefly", "random")
"""Growth methods of the grid."""


def arms(size: Size) -> Sequence[Arm]:
    """All of a scale; contest by contest."""
    found = [*_neurons(size), *layers(size), *cells(), *normalized_cells(size), *_weights()]
    contests = [contest(level, course) for level in get_args(Level) for course in COURSES]
    found.sort(key=lambda entry: contests.index(contest(entry.level, entry.course)))
    return [entry.arm(size) for entry in (*fixed_nets(), *found) if not size.only or entry.name in size.only]


def submitted(size: Size, path: Path) -> Sequence[Arm]:
    """The submissions in a file, and the fixed nets of their contests.

    Raises:
        ConfigError: as `submission.read`.
    """
    source, found = read(path)
    nets: dict[Entry, None] = {}
    own: list[Entry] = []
    for number, one in enumerate(found):
        way = Submitted(source=source, number=number)
        own.append(Entry(one.level, one.course, one.norm, way, one.name, one.description, tested=True))
        nets.update(dict.fromkeys(net.entry(one.norm) for net in ENDS[one.level]))
    return [entry.arm(size) for entry in (*nets, *own)]


def _neurons(size: Size) -> Iterator[Entry]:
    for course in COURSES:
        for prune in (None, *get_args(Pruning)):
            for grow in (None, *get_args(Growing)):
                if _possible(course, grow, prune):
                    yield from _forms(size, course, grow, prune, "fixed")
    for form, half in HALVES.items():
        way = Neurons(grow="GradMax", insertion=half, strength=size.strength)
        shown = called("GradMax", form, "fixed"), words("channels", "GradMax", None, "fixed")
        yield Entry("neuron", "growing", True, way, *shown, tested=True)
    for grow in get_args(Growing):
        yield from _forms(size, "growing", grow, None, "own")
    for prune in get_args(Pruning):
        yield from _forms(size, "shrinking", None, prune, "own")
    for course in COURSES:
        for prune in get_args(Pruning):
            for grow in PUBLISHED:
                yield from _forms(size, course, grow, prune, "own")


def _possible(course: Course, grow: str | None, prune: str | None) -> bool:
    """A net that only grows grows, one that is only pruned shrinks, and one of constant size needs both."""
    return {
        "growing": grow is not None,
        "shrinking": prune is not None,
        "constant": grow is not None and prune is not None,
    }[course]


def _forms(
    size: Size, course: Course, grow: Growing | None, prune: Pruning | None, schedule: Timing
) -> Iterator[Entry]:
    """With and without batch normalization, whose scales polarization needs. What copies or only prunes is safe."""
    for form, (norm, insertion) in FORMS.items():
        if prune == "polarization" and not norm:
            continue
        if insertion == "safe" and grow in (None, "Mitosis"):
            continue
        way = Neurons(grow=grow, prune=prune, insertion=insertion, schedule=schedule, strength=size.strength)
        tested = _tested(course, grow, prune, form, schedule)
        shown, said = called(what(grow, prune), form, schedule), words("channels", grow, prune, schedule)
        further = schedule == "own" and grow is not None and prune is not None and form != SAFE
        yield Entry("neuron", course, norm, way, shown, said, tested, further=further)


def _tested(course: Course, grow: str | None, prune: str | None, form: str, schedule: Timing) -> bool:
    """Whether claims are tested with it."""
    if grow is None:
        return form == NAIVE
    if grow == "Mitosis":
        return prune is None
    return form == SAFE or schedule == "fixed"


def _weights() -> Iterator[Entry]:
    for course, ways, way in _weight_ways():
        for norm in (False, True):
            said, further = f"weights: {ways}; {SCHEDULES[_timing(way)]}", way.schedule == "own" and not norm
            shown = called(ways, form_of(norm), way.schedule)
            yield Entry("weight", course, norm, way, shown, said, not further, further=further)


def _timing(way: Weights) -> Timing:
    return "own" if way.named else way.schedule


def _weight_ways() -> Iterator[tuple[Course, str, Weights]]:
    """What is dropped, or kept in number, on its own schedule has names, but for L1 with random growth."""
    for course in COURSES:
        for drop in (False, True):
            for grow in (None, *get_args(Wiring)):
                if _possible(course, grow, "L1" if drop else None):
                    yield course, what(grow, "L1" if drop else None), Weights(drop=drop, grow=grow)
    for named in get_args(Named):
        yield "constant" if named in ("RigL", "SET") else "shrinking", named, Weights(named=named)
    for drop in (False, True):
        for grow in get_args(Wiring):
            way = Weights(drop=drop, grow=grow, schedule="own")
            yield "growing", what(grow, "L1" if drop else None), way
    yield "shrinking", what("random", "L1"), Weights(drop=True, grow="random", schedule="own")
