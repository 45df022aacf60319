"""The summary of a study as a table: the same columns in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from meristem.report.intervals import amount, duration, percent
from meristem.study.summary import Row

COLUMNS = ("net", "final accuracy (%)", "accuracy over training (%)", "parameters", "training FLOPs", "seconds")


def cells(row: Row) -> tuple[str, ...]:
    """One row as text, in the order of `COLUMNS`; every number is a mean with its 95 % confidence interval."""
    return (
        row.name,
        percent(row.final_accuracy),
        percent(row.mean_accuracy),
        amount(row.parameters),
        amount(row.flops),
        duration(row.seconds),
    )


def summary_table(title: str, rows: Sequence[Row]) -> Table:
    """The table for the terminal."""
    table = Table(title=title, caption=f"mean ± 95 % confidence interval over {rows[0].seeds} seeds")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table
