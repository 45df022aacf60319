"""What the Darmstadt project found, and what ours adds, as tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Below, Equivalent, Greater
from meristem.study.studies.grid.arms import PUBLISHED
from meristem.study.studies.grid.contender import Course
from meristem.study.studies.grid.entries import LARGE, NAIVE, PLAIN, SAFE, SIDE, STATISTICS, final_net
from meristem.study.studies.grid.level_claims import levels, own_schedules
from meristem.study.studies.grid.margins import HARM, OURS, POINT, THEIRS
from meristem.study.studies.grid.naming import COURSES, name
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.settings import Size
from meristem.study.studies.grid.sprout_claims import sprouts

SHOWN = ("GradMax", "Firefly")
"""The growth methods of which their claims speak."""


def claims(size: Size) -> Sequence[Claim]:
    """All of a scale."""
    if size.only:
        return [_removed("GradMax")]
    found = [_grown(), *_pairs(), *_permanent()]
    found += [_removed(grow) for grow in PUBLISHED]
    return [*found, *_halves(), *_worth(), *_early(), *levels(), *sprouts(), *own_schedules()]


def _grown() -> Claim:
    net = final_net("neuron", "growing")
    tests = [
        Equivalent(
            "final accuracy",
            tuple(name("growing", grow, None, form) for grow in PUBLISHED),
            net.entry(form == NAIVE).name,
            POINT,
        )
        for form in (PLAIN, NAIVE)
    ]
    return Claim("Nets of growing size end on par with a fixed net as large.", tests, THEIRS)


def _pairs() -> Iterator[Claim]:
    """The grid itself, pair by pair, as published."""
    for course in COURSES:
        for prune in get_args(Pruning):
            tests = [_as_large(course, grow, prune, form) for grow in PUBLISHED for form in _forms(prune)]
            yield Claim(f"Pairs with {prune}, of {course} size, end on par with a fixed net as large.", tests, THEIRS)
    for course in COURSES:
        for prune in get_args(Pruning):
            jumps = [name(course, grow, prune, form) for grow in PUBLISHED for form in _forms(prune)]
            harmed = [Above("jump", jump, 0.0, HARM) for jump in jumps]
            yield Claim(f"In pairs with {prune}, of {course} size, edits hurt the loss at once.", harmed, THEIRS)


def _as_large(course: Course, grow: str, prune: Pruning, form: str) -> Equivalent:
    net = final_net("neuron", course).entry(form == NAIVE).name
    return Equivalent("final accuracy", name(course, grow, prune, form), net, POINT)


def _forms(prune: Pruning) -> tuple[str, ...]:
    """Polarization needs batch normalization."""
    return (PLAIN, NAIVE) if prune == "L1" else (NAIVE,)


def _permanent() -> Iterator[Claim]:
    for grow in SHOWN:
        naive = name("growing", grow, None, NAIVE)
        exact = name("growing", "Mitosis", None, NAIVE)
        tests: list[Test] = [Above("damage", naive, 0.0, HARM), Greater("final loss", naive, exact, HARM)]
        yield Claim(f"With batch normalization {grow} worsens training permanently.", tests, THEIRS)
        plain = [Below("damage", name("growing", grow, None, PLAIN), HARM)]
        yield Claim(f"Without batch normalization {grow} does not.", plain, THEIRS)


def _removed(grow: str) -> Claim:
    naive, safe = (name("growing", grow, None, form) for form in (NAIVE, SAFE))
    tests = [Greater("damage", naive, safe, HARM), Below("damage", safe, HARM)]
    return Claim(f"Safe insertion removes the permanent damage of {grow}.", tests, OURS)


def _halves() -> Iterator[Claim]:
    """What of safe GradMax it is that helps: that nothing reads newborns, or that running statistics are their own."""
    naive, side, statistics = (name("growing", "GradMax", None, form) for form in (NAIVE, SIDE, STATISTICS))
    removed = [Greater("damage", naive, side, HARM), Below("damage", side, HARM)]
    yield Claim("The other side alone removes the permanent damage of GradMax.", removed, OURS)
    kept = [Equivalent("damage", statistics, naive, HARM), Equivalent("final accuracy", statistics, naive, POINT)]
    yield Claim("Running statistics from newborns' own batches alone change nothing for GradMax.", kept, OURS)


def _worth() -> Iterator[Claim]:
    for grow in SHOWN:
        naive, safe = (name("growing", grow, None, form) for form in (NAIVE, SAFE))
        tests = [Greater("final accuracy", safe, naive, POINT), Greater("final loss", naive, safe, HARM)]
        yield Claim(f"Safe insertion makes nets that grow by {grow} better in the end.", tests, OURS)


def _early() -> Iterator[Claim]:
    for form in (PLAIN, NAIVE):
        early, large = name("growing", "Mitosis", None, form, "own"), LARGE.entry(form == NAIVE).name
        tests = [Equivalent("final accuracy", early, large, POINT)]
        yield Claim(f"Early growth ends on par with the large net ({form}).", tests, OURS)
