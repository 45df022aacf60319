"""The report of a study."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs

import meristem
from meristem.report.figures import accuracy_against_compute, widths_over_time
from meristem.report.page import templates, write_page
from meristem.report.table import COLUMNS, cells
from meristem.study import Protocol, summarize
from meristem.train.config import to_yaml
from meristem.train.record import Run


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure of the page."""

    title: str
    caption: str
    figure: go.Figure

    @property
    def json(self) -> str:
        """Data and layout, safe inside a `<script>` element."""
        return (self.figure.to_json() or "").replace("<", "\\u003c")


def write_report(path: Path, protocol: Protocol, results: Mapping[str, Sequence[Run]]) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        protocol: what was done.
        results: the finished runs by arm, as from `meristem.study.execute`.
    """
    page = (
        templates()
        .get_template("study.html")
        .render(
            title=protocol.title,
            seeds=len(protocol.seeds),
            arms=protocol.arms,
            columns=COLUMNS,
            rows=[cells(summarize(name, runs)) for name, runs in results.items()],
            plots=_plots(protocol, results),
            configs={arm.name: to_yaml(arm.config) for arm in protocol.arms},
            plotly=get_plotlyjs(),
            environment=environment(),
        )
    )
    write_page(path, page)


def environment() -> str:
    """What produced the numbers, in one line."""
    return (
        f"meristem {meristem.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )


def _plots(protocol: Protocol, results: Mapping[str, Sequence[Run]]) -> list[Plot]:
    several = len(protocol.seeds) > 1
    caption = "Mean over the seeds; the band is the 95 % confidence interval." if several else "One seed."
    plots = [Plot("Accuracy against training compute", caption, accuracy_against_compute(results))]
    for arm in protocol.arms:
        if any(run.changes for run in results[arm.name]):
            caption = f"Units of every axis, seed {results[arm.name][0].seed}. ▲ units were born, ▼ units died."
            plots.append(Plot(f"Widths over time: {arm.name}", caption, widths_over_time(results[arm.name])))
    return plots
