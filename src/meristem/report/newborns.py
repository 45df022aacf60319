"""Newborns against incumbents over age, drawn from the records of monitors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median, quantiles
from typing import Any

import plotly.graph_objects as go

from meristem.diagnose import Record
from meristem.diagnose.integration import LEVEL
from meristem.report.colours import colour
from meristem.report.figures import layout, log_axis

CURVES = {"frequency": "activity, R_act", "gradient": "gradient, R_grad", "fan_out": "fan-out norm"}
"""The ratios that are shown, in the order of their colours."""

FLOOR = 1e-3
"""Where ratios of 0 are drawn on the logarithmic scale."""

_BINS = 60

Courses = Mapping[str, Mapping[int, list[float]]]
"""By measure and age, the ratios of all cohorts."""


def newborns_over_age(records: Iterable[Record | Mapping[str, Any]]) -> go.Figure | None:
    """Newborns in units of incumbents over their age: median over cohorts, and the band between the quartiles.

    R_act, R_grad and the ratio of fan-out norms on a logarithmic scale, with lines at 1 (parity) and at 0.9 (from where
    on newborns count as integrated). What is below 0.001 is drawn there.

    Args:
        records: of one or several monitors, `Record`s or what `Record.plain()` gave; cohorts of all axes, births and
            runs are put together by age.

    Returns:
        None if there are no newborns with incumbents.
    """
    courses = by_age(records)
    if not courses["gradient"]:
        return None
    figure = go.Figure()
    for index, (measure, name) in enumerate(CURVES.items()):
        _draw(figure, courses[measure], name, index)
    for level, dash in ((1.0, "solid"), (LEVEL, "dot")):
        figure.add_hline(y=level, line={"width": 1, "dash": dash, "color": "rgba(128,128,128,0.7)"})
    figure.update_layout(layout("age (optimizer steps)", "newborns / incumbents"))
    shown = [max(ratio, FLOOR) for course in courses.values() for ratios in course.values() for ratio in ratios]
    figure.update_yaxes(log_axis(shown))
    return figure


def by_age(records: Iterable[Record | Mapping[str, Any]]) -> Courses:
    """The ratios of all cohorts by age; ages in at most 60 bins of equal width, each named by its upper end."""
    found: dict[str, list[tuple[int, float]]] = {measure: [] for measure in CURVES}
    for record in records:
        plain = record.plain() if isinstance(record, Record) else record
        for cohort in (cohort for axis in plain["axes"].values() for cohort in axis["cohorts"]):
            for measure in CURVES:
                if cohort["ratios"][measure] is not None:
                    found[measure].append((cohort["age"], cohort["ratios"][measure]))
    ages = {age for course in found.values() for age, _ in course}
    width = math.ceil(max(ages, default=0) / _BINS) if len(ages) > _BINS else 1
    courses: dict[str, dict[int, list[float]]] = {}
    for measure, course in found.items():
        courses[measure] = {}
        for age, ratio in sorted(course):
            courses[measure].setdefault(-(-age // width) * width, []).append(ratio)
    return courses


def _draw(figure: go.Figure, course: Mapping[int, list[float]], name: str, index: int) -> None:
    ages = list(course)
    middle = [median(ratios) for ratios in course.values()]
    if any(len(ratios) > 1 for ratios in course.values()):
        sides = [quantiles(r, n=4, method="inclusive") if len(r) > 1 else [r[0]] * 3 for r in course.values()]
        edge = [max(side[2], FLOOR) for side in sides] + [max(side[0], FLOOR) for side in sides[::-1]]
        band = {"x": ages + ages[::-1], "y": edge, "fill": "toself", "fillcolor": colour(index, 0.2)}
        figure.add_scatter(
            **band, line={"width": 0}, mode="lines", hoverinfo="skip", legendgroup=name, showlegend=False
        )
    figure.add_scatter(
        x=ages,
        y=[max(ratio, FLOOR) for ratio in middle],
        customdata=[[ratio, len(ratios)] for ratio, ratios in zip(middle, course.values(), strict=True)],
        name=name,
        mode="lines+markers",
        legendgroup=name,
        line={"color": colour(index), "width": 2.5},
        marker={"size": 5},
        hovertemplate="%{customdata[0]:.3~g} at age %{x} (%{customdata[1]} cohorts)<extra>" + name + "</extra>",
    )
