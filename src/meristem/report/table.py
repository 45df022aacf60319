"""The arms of a study as tables: the same columns in the terminal and on the page."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from meristem.report.intervals import amount, duration, number, percent
from meristem.study.study import Measure
from meristem.study.summary import ArmSummary, Summary

COSTS = (
    ("parameters", "parameters", amount),
    ("flops", "training FLOPs", amount),
    ("edit_flops", "of them in edits", amount),
    ("seconds", "seconds", duration),
    ("edit_seconds", "of them in edits", duration),
    ("peak_bytes", "peak memory (bytes)", amount),
)
"""Name in `ArmSummary.values`, head of the column and how it is written."""

MAIN = ("parameters", "training FLOPs", "seconds")
"""The heads of those that the terminal shows too."""


def measured(arm: ArmSummary, measure: Measure) -> str:
    """A metric as mean ± half width of its interval; empty where the arm has none."""
    found = arm.interval(measure.name)
    return "" if found is None else (percent if measure.percent else number)(found)


def columns(summary: Summary) -> list[str]:
    """The heads of the table of metrics."""
    return ["arm", "seeds", *(measure.head for measure in summary.measures)]


def cells(arm: ArmSummary, summary: Summary) -> list[str]:
    """One row of it."""
    return [arm.name, str(len(arm.seeds)), *(measured(arm, measure) for measure in summary.measures)]


def cost_columns() -> list[str]:
    """The heads of the table of costs."""
    return ["arm", *(head for _, head, _ in COSTS)]


def cost_cells(arm: ArmSummary) -> list[str]:
    """One row of it."""
    found = [(arm.interval(name), write) for name, _, write in COSTS]
    return [arm.name, *("" if value is None else write(value) for value, write in found)]


def summary_table(summary: Summary) -> Table:
    """Metrics and the most important costs, for the terminal."""
    table = Table(title=summary.title, caption="mean ± 95 % confidence interval")
    heads = [*columns(summary), *MAIN]
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for arms in summary.groups.values():
        for arm in arms:
            costs = dict(zip(cost_columns(), cost_cells(arm), strict=False))
            row = [*cells(arm, summary), *(costs[head] for head in MAIN)]
            table.add_row(*map(Text, row))
        table.add_section()
    return table
