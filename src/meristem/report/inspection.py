"""The map of a model in the terminal."""

from __future__ import annotations

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from meristem.axes import AxisMap
from meristem.report.summary import COLUMNS, editable_rows, frozen_groups, totals


def inspection(axes: AxisMap) -> Group:
    """The editable axes, the frozen ones by reason, what has a single unit, unreached parameters and totals."""
    parts: list[ConsoleRenderable] = [_editable(axes), _frozen(axes)]
    if axes.single:
        single = (
            f"a single unit, which cannot be followed and so not be edited, is produced by: {', '.join(axes.single)}"
        )
        parts.append(Text(f"{single}; unless it is the model's output, build it with 2 units at least", style="yellow"))
    if axes.unreached:
        parts.append(Text(f"not reached by the example input, so frozen: {', '.join(axes.unreached)}", style="yellow"))
    return Group(*parts, Text(totals(axes), style="bold"))


def _editable(axes: AxisMap) -> Table:
    table = Table(title="Editable axes")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column == "units" else "left", overflow="fold")
    for row in editable_rows(axes):
        table.add_row(*map(Text, row))
    return table


def _frozen(axes: AxisMap) -> Table:
    table = Table(title="Frozen axes")
    table.add_column("reason", overflow="fold")
    table.add_column("axes", justify="right")
    table.add_column("for example", overflow="fold")
    for group in frozen_groups(axes):
        table.add_row(Text(group.reason), str(len(group.axes)), Text(group.examples()))
    return table
