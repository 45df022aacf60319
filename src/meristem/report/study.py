"""The page of a study: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import yaml
from plotly.offline import get_plotlyjs

from meristem.report.figures import against_compute, against_seconds, first, widths_over_time
from meristem.report.findings import correction, deciding, rows, tally
from meristem.report.newborns import newborns_over_age
from meristem.report.page import templates, write_page
from meristem.report.table import cells, columns, cost_cells, cost_columns, known, seconds_note
from meristem.study.catalogue import names
from meristem.study.summary import Summary


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure of the page, or several of which the reader chooses one.

    Attributes:
        title, caption: above it.
        figures: by what is chosen.
        whole: as wide as the page.
    """

    title: str
    caption: str
    figures: Mapping[str, go.Figure]
    whole: bool = False

    @property
    def json(self) -> dict[str, str]:
        """Data and layout of each, safe inside a `<script>` element."""
        return {name: (figure.to_json() or "").replace("<", "\\u003c") for name, figure in self.figures.items()}


def write_report(path: Path, summary: Summary) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        summary: of the study, as `meristem.study.summary.summarize` makes it or `read_summary` reads it.
    """
    page = (
        templates()
        .get_template("study.html")
        .render(
            summary=summary,
            tally=tally(summary),
            correction=correction(summary),
            findings=[(found, rows(summary, found), deciding(summary, found)) for found in summary.findings],
            columns=columns(summary),
            cost_columns=cost_columns(summary),
            groups=[(name, arms, [cells(a, summary) for a in arms]) for name, arms in summary.groups.items()],
            costs=[(name, [cost_cells(arm, summary) for arm in arms]) for name, arms in summary.groups.items()],
            plots=[plot for plot in (*_compute(summary), _widths(summary), _newborns(summary)) if plot.figures],
            seconds_note=seconds_note(summary),
            measures_memory=known(summary, "peak_bytes"),
            command=_command(summary),
            configs={arm.name: yaml.safe_dump(dict(arm.config), sort_keys=False) for arm in summary.arms},
            plotly=get_plotlyjs(),
            environment=", ".join(f"{name} {version}" for name, version in summary.versions.items()),
        )
    )
    write_page(path, page)


def _compute(summary: Summary) -> list[Plot]:
    plots = []
    for group, arms in summary.groups.items():
        title = summary.course.title or summary.course.name
        several = max(len(arm.seeds) for arm in arms) > 1
        caption = (
            "Mean over the seeds; the band, where there are three or more, is the 95 % confidence interval."
            if several
            else "One seed."
        )
        hidden = sum(arm.name in summary.main for arm in arms) not in (0, len(arms))
        caption += " Shown are the main arms; the others appear when their names are chosen." if hidden else ""
        figures = {
            "against training compute": against_compute(arms, summary.course, summary.main),
            "against seconds": against_seconds(arms, summary.course, summary.main),
        }
        heading = f"{title[0].upper()}{title[1:]} over training" + (f": {group}" if group else "")
        caption = f"{caption} {seconds_note(summary)}"
        plots.append(Plot(heading, caption, {name: figure for name, figure in figures.items() if figure.data}, True))
    return plots


def _widths(summary: Summary) -> Plot:
    arms = first(summary.arms, summary.main)
    figures = {arm.name: widths_over_time(arm.structure) for arm in arms if arm.structure.edited}
    caption = "Units of every axis, in the first run of an arm. ▲ units were born, ▼ units died."
    return Plot("Widths, births and deaths", caption, figures)


def _newborns(summary: Summary) -> Plot:
    found = {arm.name: newborns_over_age(arm.records) for arm in first(summary.arms, summary.main) if arm.records}
    caption = (
        "What the youngest newborns get and give, in units of older units; median and quartiles over axes, births and "
        "runs. 1 is parity."
    )
    return Plot("Newborns over age", caption, {name: figure for name, figure in found.items() if figure is not None})


def _command(summary: Summary) -> str:
    if summary.study == "demo":
        return f"meristem demo --seeds {summary.settings['seeds']} --epochs {summary.settings['epochs']}"
    name = summary.study if summary.study in names() else "MODULE:STUDY"  # one of a user's own, wherever it is
    return f"meristem study {name} --scale {summary.scale}"
