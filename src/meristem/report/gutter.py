"""The places of depth in the picture of a map: brackets around what may go or be copied, signs where layers fit, bars
beside what a branch can be added to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meristem.axes.module_path import within
from meristem.depth import Places
from meristem.report.lanes import lanes_of

STEP = 10
"""Distance of two brackets, in pixels."""

BAR = 15
"""Distance of two double bars."""

Kind = Literal["block", "branch", "module"]


@dataclass(frozen=True, slots=True)
class Bracket:
    """Modules that may be removed together; a block may also be copied.

    Attributes:
        kind: one of several blocks that repeat, a branch, or another module.
        x: where the bracket stands.
        top, bottom: its ends.
        hint: in words.
    """

    kind: Kind
    x: int
    top: int
    bottom: int
    hint: str


@dataclass(frozen=True, slots=True)
class Plus:
    """Here modules can be inserted."""

    x: int
    y: int
    hint: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Beside these modules a branch can be added."""

    x: int
    top: int
    bottom: int
    hint: str


@dataclass(frozen=True, slots=True)
class Gutter:
    """All places, and how much room they take."""

    brackets: tuple[Bracket, ...] = ()
    pluses: tuple[Plus, ...] = ()
    bars: tuple[Bar, ...] = ()
    width: int = 0


def gutter(places: Places | None, modules: Sequence[str], left: int, top: int, row: int) -> Gutter:
    """Lay out the places of a model beside the rows of its modules.

    Args:
        places: the places, or None.
        modules: the paths of the modules that have a row, from top to bottom.
        left: where the gutter begins.
        top: the height of the first row.
        row: the distance of two rows.
    """
    if places is None:
        return Gutter()

    def ends(first: int, last: int) -> tuple[int, int]:
        return top + row * first - row // 3, top + row * last + row // 3

    spans = list(_spans(places, modules))
    lanes = lanes_of([(number, first, last) for number, (_, first, last, _) in enumerate(spans)])
    brackets = tuple(
        Bracket(kind, left + STEP * lanes[number], *ends(first, last), hint)
        for number, (kind, first, last, hint) in enumerate(spans)
    )
    x = left + STEP * (max(lanes.values(), default=-1) + 1) + STEP // 2
    gaps: dict[int, list[str]] = {}
    for way in places.insertions:
        gap = _gap(places, way.module, way.side == "after", modules)
        if way.frozen is None and gap is not None:
            gaps.setdefault(gap, []).append(way.name)
    pluses = tuple(
        Plus(x, top + row * gap - row // 2, f"a layer fits {', '.join(names)}") for gap, names in gaps.items()
    )
    beside = list(_beside(places, modules))
    lanes = lanes_of([(number, first, last) for number, (first, last, _) in enumerate(beside)])
    bars = tuple(
        Bar(x + 2 * STEP + BAR * lanes[number], *ends(first, last), hint)
        for number, (first, last, hint) in enumerate(beside)
    )
    width = x + 2 * STEP + BAR * (max(lanes.values(), default=-1) + 1) - left
    return Gutter(brackets, pluses, bars, width if brackets or pluses or bars else 0)


def _spans(places: Places, modules: Sequence[str]) -> Iterator[tuple[Kind, int, int, str]]:
    """Kind, first and last row, and hint of all that may go; each module once."""
    drawn: set[str] = set()
    removable = {removal.module for removal in places.removals if removal.frozen is None}
    for run in places.runs:
        for block in run.blocks if run.frozen is None else ():
            rows = [number for path in block for number in _rows(path, modules)]
            drawn.update(block)
            goes = len(run) > 1 or removable.issuperset(block)
            among = f"one of {len(run)} blocks that repeat; " if len(run) > 1 else ""
            if rows:
                hint = f"{', '.join(block)}: {among}can be copied{' and removed' if goes else ''}"
                yield "block", min(rows), max(rows), hint
    for branch in places.branches:
        rows = [number for path in branch.modules for number in _rows(path, modules)]
        if branch.frozen is None and rows:
            drawn.update(branch.modules)
            yield "branch", min(rows), max(rows), f"the branch {branch.name} can be removed"
    for removal in places.removals:
        rows = _rows(removal.module, modules)
        if removal.frozen is None and rows and removal.module not in drawn:
            yield "module", rows[0], rows[-1], f"{removal.module} can be removed: the identity fits in its place"


def _beside(places: Places, modules: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """First and last row, and hint of every module and all neighbours beside which a branch can be put."""
    ways: dict[str, list[str]] = {}
    for place in places.beside:
        if place.frozen is None:
            how = "added" if place.join == "add" else f"appended, with units beside those of {place.units}"
            ways.setdefault(place.module, []).append(how)
    for module, how in ways.items():
        rows = _rows(module, modules)
        if rows:
            yield rows[0], rows[-1], f"a branch beside {module} can be {' or '.join(how)}"
    for row in places.rows:
        rows = [number for path in row.children for number in _rows(path, modules)]
        if row.frozen is None and rows:
            yield (
                min(rows),
                max(rows),
                f"a branch beside {row.name} or neighbours of these can be added if zeros silence it",
            )


def _rows(path: str, modules: Sequence[str]) -> list[int]:
    """The rows of a module and of what is in it."""
    return [number for number, name in enumerate(modules) if within(name, path)]


def _gap(places: Places, module: str, after: bool, modules: Sequence[str]) -> int | None:
    """Between which rows a place lies: before the row of that number. Modules without a row stand behind the last one
    with a row that was called before them."""
    rows = _rows(module, modules)
    if rows:
        return rows[-1] + 1 if after else rows[0]
    calls: Mapping[str, Sequence[object]] = places.flow.of
    order = list(calls)
    before = [number for path in order[: order.index(module)] for number in _rows(path, modules) if path in modules]
    return before[-1] + 1 if before else None
