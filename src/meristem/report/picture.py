"""The picture of a map: modules in the order of the forward pass from top to bottom, every editable axis a line.

An axis runs from the first module it occurs in to the last. A filled mark produces its units, an open one reads them,
a bar carries them along. Beside the names stand the places of depth, if they are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meristem.axes import Axis, AxisMap
from meristem.axes.expression import leaves
from meristem.axes.map import Role, TensorLayout
from meristem.depth import Places
from meristem.report.colours import colour
from meristem.report.gutter import Gutter, gutter
from meristem.report.lanes import lanes_of
from meristem.report.page import templates, write_page
from meristem.report.summary import COLUMNS, editable_rows, frozen_groups, totals

ROW, LANE, MARGIN = 22, 20, 16
"""Height of a module's row, distance of two axes, and the space around, in pixels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An axis meets a module."""

    x: int
    y: int
    roles: frozenset[Role]
    colour: str
    hint: str

    @property
    def produces(self) -> bool:
        """Whether the module produces the axis's units."""
        return Role.PRODUCES in self.roles

    @property
    def reads(self) -> bool:
        """Whether the module reads the axis's units."""
        return Role.READS in self.roles


@dataclass(frozen=True, slots=True)
class Line:
    """One axis, from its first module to its last."""

    x: int
    top: int
    bottom: int
    colour: str
    hint: str


@dataclass(frozen=True, slots=True)
class Length:
    """One dimension of a module's largest tensor, in the colour of its axis (empty: none, or several)."""

    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Row:
    """One module."""

    y: int
    module: str
    shape: tuple[Length, ...]
    marks: tuple[Mark, ...]

    @property
    def span(self) -> tuple[int, int] | None:
        """Leftmost and rightmost mark, or None if no editable axis meets the module."""
        places = [mark.x for mark in self.marks]
        return (min(places), max(places)) if places else None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is drawn, in pixels."""

    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    places: Gutter
    names_x: int
    shapes_x: int
    width: int
    height: int


def draw(axes: AxisMap, places: Places | None = None) -> Picture:
    """Lays out the picture of a map, with the places at which layers and branches may come and go if they are given."""
    modules = _modules(axes)
    spans = {axis.index: _span(axis, modules) for axis in axes.editable}
    lanes = lanes_of([(axis, first, last) for axis, (first, last) in spans.items()])
    x = {axis: MARGIN + LANE * lane for axis, lane in lanes.items()}
    y = [MARGIN + ROW * row for row in range(len(modules))]
    lines = tuple(
        Line(x[axis.index], y[spans[axis.index][0]], y[spans[axis.index][1]], colour(axis.index), _name(axis))
        for axis in axes.editable
    )
    rows = tuple(
        Row(y[number], name, _shape(layouts, axes), _marks(layouts, axes, x, y[number]))
        for number, (name, layouts) in enumerate(modules)
    )
    beside = MARGIN + LANE * (max(lanes.values(), default=0) + 1)
    found = gutter(places, [name for name, _ in modules], beside, MARGIN, ROW)
    names_x = beside + found.width
    shapes_x = names_x + 8 * max((len(name) for name, _ in modules), default=0) + 2 * MARGIN
    width = shapes_x + 9 * max((sum(len(n.text) + 3 for n in row.shape) for row in rows), default=0)
    return Picture(lines, rows, found, names_x, shapes_x, width, 2 * MARGIN + ROW * max(len(modules) - 1, 0))


def write_picture(path: Path, title: str, axes: AxisMap, places: Places | None = None) -> None:
    """Writes the picture and the tables of a map as one self-contained HTML page; with places, these too."""
    page = (
        templates()
        .get_template("picture.html")
        .render(
            title=title,
            totals=totals(axes),
            picture=draw(axes, places),
            columns=COLUMNS,
            editable=list(editable_rows(axes)),
            frozen=frozen_groups(axes),
            unreached=axes.unreached,
        )
    )
    write_page(path, page)


def _modules(axes: AxisMap) -> list[tuple[str, list[TensorLayout]]]:
    """Modules with their tensors: in the order in which they work; those without work after the one defined before."""
    modules: dict[str, list[TensorLayout]] = {}
    for layout in axes.layouts.values():
        if layout.dims:
            modules.setdefault(layout.name.rpartition(".")[0], []).append(layout)
    turns: dict[str, int] = {}
    for turn, work in enumerate(axes.work):
        turns.setdefault(work.module, turn)
    order, turn = {}, -1
    for name in modules:
        turn = order[name] = turns.get(name, turn)
    return sorted(modules.items(), key=lambda module: order[module[0]])


def _span(axis: Axis, modules: Sequence[tuple[str, list[TensorLayout]]]) -> tuple[int, int]:
    """First and last row in which an axis occurs."""
    rows = [row for row, (_, layouts) in enumerate(modules) if any(axis.index in _occurring(each) for each in layouts)]
    return rows[0], rows[-1]


def _occurring(layout: TensorLayout) -> set[int]:
    return {axis for dim in layout.dims for axis in leaves(dim)}


def _marks(layouts: Sequence[TensorLayout], axes: AxisMap, x: dict[int, int], y: int) -> tuple[Mark, ...]:
    roles: dict[int, frozenset[Role]] = {}
    for layout in layouts:
        for dim, found in zip(layout.dims, layout.roles, strict=True):
            for axis in leaves(dim):
                roles[axis] = roles.get(axis, frozenset()) | found.get(axis, frozenset())
    return tuple(
        Mark(x[axis], y, roles[axis], colour(axis), f"{' and '.join(sorted(roles[axis]))} {_name(axes.axes[axis])}")
        for axis in roles
        if axis in x
    )


def _name(axis: Axis) -> str:
    return f"{axis.name}: {axis.size} {axis.kind}"


def _shape(layouts: Sequence[TensorLayout], axes: AxisMap) -> tuple[Length, ...]:
    """The shape of a module's largest tensor."""
    largest = max(layouts, key=lambda layout: len(layout.dims))
    found = []
    for dim, length in zip(largest.dims, largest.shape(axes.sizes), strict=True):
        editable = {axis for axis in leaves(dim) if axes.axes[axis].editable}
        found.append(Length(str(length), colour(editable.pop()) if len(editable) == 1 else ""))
    return tuple(found)
