"""The arms of a study as tables: the same columns in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
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


def known(summary: Summary, name: str) -> bool:
    """Whether an arm has a value of that name."""
    return any(arm.interval(name) for arm in summary.arms)


def cost_columns(summary: Summary) -> list[str]:
    """The heads of the table of costs: what no arm has is left out."""
    return ["arm", *(head for name, head, _ in COSTS if known(summary, name))]


def cost_cells(arm: ArmSummary, summary: Summary) -> list[str]:
    """One row of it."""
    found = [(arm.interval(name), write) for name, _, write in COSTS if known(summary, name)]
    return [arm.name, *("" if value is None else write(value) for value, write in found)]


def seconds_note(summary: Summary) -> str:
    """What seconds in tables are worth, as far as it was recorded."""
    most = max((sitting.jobs for sitting in summary.sittings), default=0)
    if not most:
        jobs = "a number of runs at a time that was not recorded"
    else:
        jobs = f"up to {most} runs at a time" if most > 1 else "one run at a time"
    return (
        f"Seconds were measured with {jobs}; they depend on that and on what else the machine did, operations do not."
    )


def summary_table(summary: Summary, width: int = 250) -> Group:
    """Metrics and the most important costs, for the terminal.

    Args:
        summary: of a study.
        width: characters in a line. Columns that do not fit stand in further tables below, with the arms once more.
    """
    rows = [[row(arm, summary) for arm in arms] for arms in summary.groups.values()]
    heads = [*columns(summary), *MAIN]
    longest = [max(len(line[index]) for lines in rows for line in lines) for index in range(len(heads))]
    least = [max(length, *map(len, head.split())) for length, head in zip(longest, heads, strict=True)]
    least[0] = min(least[0], width // 3)
    tables: list[Table] = []
    for part in _parted(least, width):
        table = Table(title=None if tables else summary.title)
        fits = sum(max(longest[i], len(heads[i])) + 3 for i in part) < width
        for index in part:
            side = "left" if index == 0 else "right"
            table.add_column(heads[index], justify=side, overflow="fold", width=None if fits else least[index])
        for lines in rows:
            for line in lines:
                table.add_row(*(Text(line[index]) for index in part))
            table.add_section()
        tables.append(table)
    tables[-1].caption = f"mean ± 95 % confidence interval. {seconds_note(summary)}"
    return Group(*tables)


def _parted(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns that stand side by side, each time with the first one; a border and two blanks go with each."""
    parts = [[0]]
    for index in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[i] + 3 for i in (*parts[-1], index)) >= width:
            parts.append([0])
        parts[-1].append(index)
    return parts


def row(arm: ArmSummary, summary: Summary) -> list[str]:
    """What the terminal shows of an arm."""
    costs = dict(zip(cost_columns(summary), cost_cells(arm, summary), strict=True))
    return [*cells(arm, summary), *(costs.get(head, "") for head in MAIN)]
