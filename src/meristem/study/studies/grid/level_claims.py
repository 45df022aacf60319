"""The project's claims at the levels of layers, cells and weights; claims about schedules that belong to methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from meristem.study.claim import Arms, Claim
from meristem.study.comparisons import Above, Below, Equivalent, Greater
from meristem.study.studies.grid.arms import PUBLISHED
from meristem.study.studies.grid.contender import Course, Level, Timing
from meristem.study.studies.grid.entries import NAIVE, PLAIN, SAFE, final_net
from meristem.study.studies.grid.margins import HARM, OURS, POINT, THEIRS
from meristem.study.studies.grid.naming import COURSES, name

Ways: TypeAlias = Sequence[tuple[str | None, str | None]]
"""Who is born, and who decides who dies."""

PARTS: Mapping[Level, str] = {"layer": "layers", "cell": "branches", "weight": "single weights"}

GROWN: Mapping[Level, Sequence[str]] = {
    "layer": ("random", "identity", "residual"),
    "cell": ("copy", "random"),
    "weight": ("gradient", "random"),
}
"""What is inserted at each level."""

EXACT: Mapping[Level, Sequence[tuple[str, str]]] = {
    "layer": [("identity", PLAIN), ("identity", SAFE), ("residual", PLAIN), ("residual", NAIVE)],
    "cell": [("copy", PLAIN), ("copy", NAIVE)],
    "weight": [("gradient", PLAIN), ("gradient", NAIVE)],
}
"""What preserves the function, by form; single weights begin at zero."""


def levels() -> Iterator[Claim]:
    """The project's claims level by level, and that exact insertion does no harm."""
    for level, part in PARTS.items():
        pruned = [Above("jump", _name(level, "shrinking", None, "L1", form), 0.0, HARM) for form in (PLAIN, NAIVE)]
        yield Claim(f"Pruning {part} hurts the loss at once.", pruned, THEIRS)
        if level != "weight":
            grown = [Above("jump", _name(level, "growing", "random", None, f), 0.0, HARM) for f in (PLAIN, NAIVE)]
            yield Claim(f"Growing {part} that are freshly initialized hurts the loss at once.", grown, THEIRS)
        exact = [Below("jump", _name(level, "growing", grow, None, form), HARM) for grow, form in EXACT[level]]
        yield Claim(f"Exact insertion of {part} does not hurt the loss at once.", exact, OURS)
        for course in COURSES:
            yield _on_par(level, course)


def own_schedules() -> Iterator[Claim]:
    """Whether methods do better on their own schedules: neurons by contest, then the other levels."""
    alone: dict[Course, Ways] = {
        "growing": [(grow, None) for grow in PUBLISHED],
        "shrinking": [(None, "L1"), (None, "polarization")],
        "constant": [],
    }
    for course in COURSES:
        pairs = [[(grow, prune) for grow in PUBLISHED] for prune in ("L1", "polarization")]
        tests = [_better("neuron", course, ways) for ways in (alone[course], *pairs) if ways]
        yield Claim(
            f"Nets of {course} size end better on the methods' own schedules than on the fixed one.", tests, OURS
        )
    for level, part in PARTS.items():
        tests = [_better(level, course, _ways(level, course)) for course in COURSES if level != "weight"]
        yield Claim(f"So they do where {part} come and go.", tests or _weights(), OURS)


def _on_par(level: Level, course: Course) -> Claim:
    tests = [
        Equivalent(
            "final accuracy",
            _together([_name(level, course, grow, prune, form) for grow, prune in _ways(level, course)]),
            final_net(level, course).entry(form == NAIVE).name,
            POINT,
        )
        for form in (PLAIN, NAIVE)
    ]
    return Claim(f"Nets of {course} size end on par with a fixed net as large ({PARTS[level]}).", tests, THEIRS)


def _better(level: Level, course: Course, ways: Ways) -> Greater:
    """Behind batch normalization, safe where there is a choice."""
    own, fixed = (
        [_name(level, course, grow, prune, _form(level, grow), schedule) for grow, prune in ways]
        for schedule in ("own", "fixed")
    )
    return Greater("final accuracy", _together(own), _together(fixed), POINT)


def _form(level: Level, grow: str | None) -> str:
    return SAFE if grow == "identity" or (level == "neuron" and grow is not None) else NAIVE


def _weights() -> list[Greater]:
    """Most methods for single weights that have their own schedules have their own names."""
    pairs: Ways = [("gradient", "L1"), ("random", "L1")]
    names: dict[Course, tuple[Sequence[str], Ways]] = {
        "shrinking": (("GradualMagnitude", "GraNet"), [(None, "L1"), *pairs]),
        "constant": (("RigL", "SET"), pairs),
    }
    found = [_better("weight", "growing", [*_ways("weight", "growing"), *pairs])]
    for course, (named, ways) in names.items():
        own = [_name("weight", course, one, None, NAIVE) for one in named]
        if course == "shrinking":
            own.append(_name("weight", course, "random", "L1", NAIVE, "own"))
        fixed = [_name("weight", course, grow, prune, NAIVE) for grow, prune in ways]
        found.append(Greater("final accuracy", _together(own), _together(fixed), POINT))
    return found


def _ways(level: Level, course: Course) -> Ways:
    if course == "shrinking":
        return [(None, "L1")]
    return [(grow, None if course == "growing" else "L1") for grow in GROWN[level]]


def _together(names: Sequence[str]) -> Arms:
    return names[0] if len(names) == 1 else tuple(names)


def _name(
    level: Level, course: Course, grow: str | None, prune: str | None, form: str, schedule: Timing = "fixed"
) -> str:
    return name(course, grow, prune, form, schedule, level)
