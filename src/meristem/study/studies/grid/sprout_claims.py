"""The project's claims about layers and branches whose units a growth method makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from meristem.study.claim import Claim
from meristem.study.comparisons import Above, Below, Equivalent, Greater
from meristem.study.studies.grid.contender import Course, Level
from meristem.study.studies.grid.entries import NAIVE, PLAIN, SAFE, final_net
from meristem.study.studies.grid.margins import HARM, OURS, POINT, THEIRS
from meristem.study.studies.grid.naming import COURSES, name
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.sprout import Sprouting

PARTS: Mapping[Level, str] = {"layer": "layers", "cell": "branches"}

EXACT: Mapping[Level, str] = {"layer": "residual", "cell": "copy"}
"""What preserves the function without a growth method."""

CRITERIA: Mapping[Level, tuple[Pruning, ...]] = {"layer": ("L1", "polarization"), "cell": ("L1",)}


def sprouts() -> Iterator[Claim]:
    """Level by level: on par, at once, permanently, and what removes that."""
    for level, part in PARTS.items():
        yield _grown(level, part)
        for course in COURSES:
            for prune in CRITERIA[level]:
                yield from _pairs(level, part, course, prune)
        yield from _at_once(level, part)
        for grow in get_args(Sprouting):
            yield from _permanent(level, part, grow)
        for grow in ("GradMax", "GradMax-Opt"):
            naive, safe = (_name(level, "growing", grow, None, form) for form in (NAIVE, SAFE))
            removed = [Greater("damage", naive, safe, HARM), Below("damage", safe, HARM)]
            yield Claim(f"Safe insertion removes the permanent damage of {grow} ({part}).", removed, OURS)
    random = _name("layer", "growing", "residual", None, NAIVE)
    forms = {"GradMax": SAFE, "GradMax-Opt": SAFE, "Firefly": NAIVE}
    better = [
        Greater("final accuracy", _name("layer", "growing", grow, None, form), random, POINT)
        for grow, form in forms.items()
    ]
    yield Claim(
        "Residual layers whose units a growth method makes are better than such with random ones.", better, OURS
    )


def _grown(level: Level, part: str) -> Claim:
    tests = [_as_large(level, "growing", grow, None, form) for grow in get_args(Sprouting) for form in (PLAIN, NAIVE)]
    return Claim(
        f"Growth methods for units make {part} with which nets end on par with a fixed net as large.", tests, THEIRS
    )


def _pairs(level: Level, part: str, course: Course, prune: Pruning) -> Iterator[Claim]:
    """Behind batch normalization, as published."""
    pairs = f"Pairs of growth methods with {prune}, of {course} size"
    tests = [_as_large(level, course, grow, prune, NAIVE) for grow in get_args(Sprouting)]
    yield Claim(f"{pairs}, end on par with a fixed net as large ({part}).", tests, THEIRS)
    jumps = [_name(level, course, grow, prune, NAIVE) for grow in get_args(Sprouting)]
    yield Claim(f"{pairs}, hurt the loss at once ({part}).", [Above("jump", jump, 0.0, HARM) for jump in jumps], THEIRS)


def _at_once(level: Level, part: str) -> Iterator[Claim]:
    firefly = [_name(level, "growing", "Firefly", None, form) for form in (PLAIN, NAIVE)]
    hurt = [Above("jump", arm, 0.0, HARM) for arm in firefly]
    yield Claim(f"Growing {part} by Firefly hurts the loss at once.", hurt, THEIRS)
    exact = [
        _name(level, "growing", grow, None, f) for grow in ("GradMax", "GradMax-Opt") for f in (PLAIN, NAIVE, SAFE)
    ]
    unhurt = [Below("jump", arm, HARM) for arm in exact]
    yield Claim(f"Growing {part} by GradMax and GradMax-Opt does not hurt the loss at once.", unhurt, OURS)


def _permanent(level: Level, part: str, grow: Sprouting) -> Iterator[Claim]:
    naive, exact = (_name(level, "growing", one, None, NAIVE) for one in (grow, EXACT[level]))
    tests = [Above("damage", naive, 0.0, HARM), Greater("final loss", naive, exact, HARM)]
    yield Claim(f"With batch normalization {grow} worsens training permanently ({part}).", tests, THEIRS)
    plain = [Below("damage", _name(level, "growing", grow, None, PLAIN), HARM)]
    yield Claim(f"Without batch normalization {grow} does not ({part}).", plain, THEIRS)


def _as_large(level: Level, course: Course, grow: str, prune: Pruning | None, form: str) -> Equivalent:
    net = final_net(level, course).entry(form == NAIVE).name
    return Equivalent("final accuracy", _name(level, course, grow, prune, form), net, POINT)


def _name(level: Level, course: Course, grow: str, prune: Pruning | None, form: str) -> str:
    return name(course, grow, prune, form, level=level)
