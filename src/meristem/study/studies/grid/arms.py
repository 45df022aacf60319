"""What takes part: fixed nets, the grid of the Darmstadt project, methods with their own schedules, other levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.contender import Course, Level, Timing
from meristem.study.studies.grid.entries import ENDS, FORMS, NAIVE, SAFE, Entry, contest, fixed_nets, form_of
from meristem.study.studies.grid.insertion import Growing
from meristem.study.studies.grid.layers import Layer, Layers
from meristem.study.studies.grid.neurons import Neurons
from meristem.study.studies.grid.rewired import Wiring
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.settings import Size
from meristem.study.studies.grid.submission import Submitted, read
from meristem.study.studies.grid.weights import Named, Weights
from meristem.study.study import Arm

COURSES: Final = get_args(Course)
PUBLISHED: tuple[Growing, ...] = ("GradMax", "GradMax-Opt", "Firefly", "random")
"""Growth methods of the grid."""

SHOWN = ("GradMax", "Firefly")
"""Those of which the claims say most."""

_SCHEDULES: dict[Timing, str] = {"fixed": "fixed schedule", "own": "each method's own schedule"}


def arms(size: Size) -> Sequence[Arm]:
    """All of a scale; contest by contest."""
    found = [*_neurons(size), *_layers(size), *_cells(), *_weights()]
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


def name(
    course: Course, grow: str | None, prune: str | None, form: str, schedule: Timing = "fixed", level: Level = "neuron"
) -> str:
    """The name of an arm that is no fixed net and no method with a name of its own."""
    return f"{contest(level, course)}: {_called(_what(grow, prune), form, schedule)}"


def _called(what: str, form: str, schedule: Timing) -> str:
    return f"{what}, {form}{', own schedule' if schedule == 'own' else ''}"


def _what(grow: str | None, prune: str | None) -> str:
    return " + ".join(part for part in (prune, grow) if part is not None)


def _words(level: str, grow: str | None, prune: str | None, schedule: Timing) -> str:
    died = None if prune is None else f"{prune} decides who dies"
    born = None if grow is None else f"{grow} who is born"
    return f"{level}: {', '.join(part for part in (died, born) if part is not None)}; {_SCHEDULES[schedule]}"


def _neurons(size: Size) -> Iterator[Entry]:
    for course in COURSES:
        for prune in (None, *get_args(Pruning)):
            for grow in (None, *get_args(Growing)):
                if _possible(course, grow, prune):
                    yield from _forms(size, course, grow, prune, "fixed")
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
        words, both = _words("channels", grow, prune, schedule), grow is not None and prune is not None
        what, further = _called(_what(grow, prune), form, schedule), schedule == "own" and both and form != SAFE
        yield Entry("neuron", course, norm, way, what, words, tested, further=further)


def _tested(course: Course, grow: str | None, prune: str | None, form: str, schedule: Timing) -> bool:
    """Whether claims are tested with it."""
    if grow is None:
        return form == NAIVE
    if grow == "Mitosis":
        return prune is None
    if form == SAFE:
        return True
    return schedule == "fixed" and (prune is None if course == "growing" else prune == "L1" and grow in SHOWN)


def _layers(size: Size) -> Iterator[Entry]:
    for schedule in get_args(Timing):
        for course in COURSES:
            for prune in (None, *get_args(Pruning)):
                for grow in (None, *get_args(Layer)):
                    if (grow is not None, prune is not None) == _needed(course):
                        yield from _layer_forms(size, course, grow, prune, schedule)


def _needed(course: Course) -> tuple[bool, bool]:
    """Whether something is born, and whether something dies."""
    return course != "shrinking", course != "growing"


def _layer_forms(
    size: Size, course: Course, grow: Layer | None, prune: Pruning | None, schedule: Timing
) -> Iterator[Entry]:
    """Claims are about own schedules with batch normalization, safe where there is a choice; in pairs with L1."""
    paired = grow is not None and prune == "polarization"
    for form, (norm, insertion) in FORMS.items():
        if (prune == "polarization" and not norm) or (insertion == "safe" and grow != "identity"):
            continue
        further = schedule == "own" and (paired or form != (SAFE if grow == "identity" else NAIVE))
        way = Layers(grow=grow, prune=prune, insertion=insertion, schedule=schedule, strength=size.strength)
        what, words = _called(_what(grow, prune), form, schedule), _words("layers", grow, prune, schedule)
        tested = prune != "polarization" and not further
        yield Entry("layer", course, norm, way, what, words, tested, further=further)


def _cells() -> Iterator[Entry]:
    kinds: tuple[Any, ...] = ("copy", "random")
    for schedule in get_args(Timing):
        for course in COURSES:
            born, dies = _needed(course)
            for grow in kinds if born else (None,):
                way = Cells(grow=grow, prune="L1" if dies else None, schedule=schedule)
                for norm in (False, True):
                    what, further = (
                        _called(_what(grow, way.prune), form_of(norm), schedule),
                        schedule == "own" and not norm,
                    )
                    words = _words("branches", grow, way.prune, schedule)
                    yield Entry("cell", course, norm, way, what, words, not further, further=further)


def _weights() -> Iterator[Entry]:
    for course, what, way in _weight_ways():
        for norm in (False, True):
            words, further = (
                f"weights: {what}; {_SCHEDULES['own' if way.named else way.schedule]}",
                way.schedule == "own" and not norm,
            )
            called = _called(what, form_of(norm), way.schedule)
            yield Entry("weight", course, norm, way, called, words, not further, further=further)


def _weight_ways() -> Iterator[tuple[Course, str, Weights]]:
    """What is dropped, or kept in number, on its own schedule has names, but for L1 with random growth."""
    for course in COURSES:
        for drop in (False, True):
            for grow in (None, *get_args(Wiring)):
                if _possible(course, grow, "L1" if drop else None):
                    yield course, _what(grow, "L1" if drop else None), Weights(drop=drop, grow=grow)
    for named in get_args(Named):
        yield "constant" if named in ("RigL", "SET") else "shrinking", named, Weights(named=named)
    for drop in (False, True):
        for grow in get_args(Wiring):
            way = Weights(drop=drop, grow=grow, schedule="own")
            yield "growing", _what(grow, "L1" if drop else None), way
    yield "shrinking", _what("random", "L1"), Weights(drop=True, grow="random", schedule="own")
