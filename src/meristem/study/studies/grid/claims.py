"""What the Darmstadt project found, and what ours adds, as tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Below, Equivalent, Greater
from meristem.study.studies.grid.arms import PUBLISHED, SHOWN, name
from meristem.study.studies.grid.contender import Course
from meristem.study.studies.grid.entries import LARGE, NAIVE, PLAIN, SAFE, final_net
from meristem.study.studies.grid.level_claims import levels, own_schedules
from meristem.study.studies.grid.margins import HARM, OURS, POINT, THEIRS
from meristem.study.studies.grid.settings import Size


def claims(size: Size) -> Sequence[Claim]:
    """All of a scale."""
    if size.only:
        return [_removed("GradMax")]
    found = [*_on_par(), *_at_once(), *_permanent()]
    found += [_removed(grow) for grow in PUBLISHED]
    return [*found, *_worth(), *_early(), *levels(), *own_schedules()]


def _on_par() -> Iterator[Claim]:
    grown: dict[Course, Sequence[tuple[str, str | None]]] = {
        "growing": [(grow, None) for grow in PUBLISHED],
        "constant": [(grow, "L1") for grow in SHOWN],
        "shrinking": [(grow, "L1") for grow in SHOWN],
    }
    for course, ways in grown.items():
        net = final_net("neuron", course)
        tests = [
            Equivalent(
                "final accuracy",
                tuple(name(course, grow, prune, form) for grow, prune in ways),
                net.entry(form == NAIVE).name,
                POINT,
            )
            for form in (PLAIN, NAIVE)
        ]
        yield Claim(f"Nets of {course} size end on par with a fixed net as large.", tests, THEIRS)


def _at_once() -> Iterator[Claim]:
    tests = [Above("jump", name("constant", grow, "L1", form), 0.0, HARM) for grow in SHOWN for form in (PLAIN, NAIVE)]
    yield Claim("Pruning and growing hurt the loss at once.", tests, THEIRS)


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


def _worth() -> Iterator[Claim]:
    for grow in SHOWN:
        naive, safe = (name("growing", grow, None, form) for form in (NAIVE, SAFE))
        tests = [Greater("final accuracy", safe, naive, POINT), Greater("final loss", naive, safe, HARM)]
        yield Claim(f"Safe insertion makes nets that grow by {grow} better in the end.", tests, OURS)


def _early() -> Iterator[Claim]:
    for form in (PLAIN, NAIVE):
        early, large = name("growing", "Mitosis", None, form, "own"), LARGE.entry(form == NAIVE).name
        tests = [Equivalent("final accuracy", early, large, POINT), Greater("flops", large, early)]
        yield Claim(f"Early growth ends on par with the large net in fewer operations ({form}).", tests, OURS)
