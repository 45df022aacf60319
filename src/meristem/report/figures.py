"""Figures of a study, drawn by plotly from its summary. The page gives text and grid their colours (light or dark)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from meristem.report.colours import COLOURS, colour
from meristem.report.numbers import power
from meristem.study.course import Course
from meristem.study.structure import Structure
from meristem.study.study import Measure
from meristem.study.summary import ArmSummary

BAND = 3
"""So many seeds have a band: with two the interval is a dozen times as wide as the runs are apart, and hides all."""

DASHES = ("solid", "dash", "dot")
"""Of lines whose colours repeat."""


NUMBERS = ",~r"
"""How numbers at axes are written: all as plain decimals, none with a prefix or an exponent."""


def against_compute(arms: Sequence[ArmSummary], measure: Measure, main: Sequence[str] = ()) -> go.Figure:
    """A value against training FLOPs: mean over the seeds of every arm that has it, and with three or more the 95 %
    confidence band.

    Args:
        arms: of one group.
        measure: the value.
        main: names of arms that come first, in this order; the others are hidden until the reader asks for them. None
            of the arms: they keep their order, and of more arms than there are colours the others are hidden.
    """
    most = max((max(arm.courses[measure.name].flops) for arm in arms if measure.name in arm.courses), default=0.0)
    scale, prefix = power(most)
    unit = f"{prefix}FLOP"
    return _against(arms, measure, main, lambda course: [f / scale for f in course.flops], "training compute", unit)


def against_seconds(arms: Sequence[ArmSummary], measure: Measure, main: Sequence[str] = ()) -> go.Figure:
    """The same against the seconds of training."""
    return _against(arms, measure, main, lambda course: list(course.seconds), "seconds of training", "s")


def first(arms: Sequence[ArmSummary], main: Sequence[str]) -> list[ArmSummary]:
    """The same arms, the main ones before the others."""
    rank = {name: index for index, name in enumerate(main)}
    return sorted(arms, key=lambda arm: rank.get(arm.name, len(rank)))


def _against(
    arms: Sequence[ArmSummary],
    measure: Measure,
    main: Sequence[str],
    spent: Callable[[Course], list[float]],
    what: str,
    of: str,
) -> go.Figure:
    figure = go.Figure()
    shown = first([arm for arm in arms if measure.name in arm.courses], main)
    few = sum(arm.name in main for arm in shown) or len(COLOURS)
    factor, unit = (100, " %") if measure.percent else (1, "")
    for index, arm in enumerate(shown):
        course, visible = arm.courses[measure.name], True if index < few else "legendonly"
        x = spent(course)
        if len(arm.seeds) >= BAND and not any(math.isnan(low) for low in course.low):
            edge = [factor * y for y in (*course.high, *course.low[::-1])]
            edge = [min(max(y, 0), 100) for y in edge] if measure.percent else edge
            band = {"x": x + x[::-1], "y": edge, "fill": "toself", "fillcolor": colour(index, 0.2)}
            figure.add_scatter(
                **band,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                legendgroup=arm.name,
                showlegend=False,
                visible=visible,
            )
        figure.add_scatter(
            x=x,
            y=[factor * mean for mean in course.mean],
            name=arm.name,
            mode="lines+markers",
            legendgroup=arm.name,
            visible=visible,
            line={"color": colour(index), "width": 2.5, "dash": DASHES[index // len(COLOURS) % len(DASHES)]},
            marker={"size": 5},
            customdata=course.step,
            hovertemplate=f"%{{y:.4~g}}{unit} after %{{x:.3~g}} {of}, step %{{customdata}}<extra>{arm.name}</extra>",
        )
    figure.update_layout(layout(f"{what} ({of})", measure.head))
    figure.update_xaxes(log_axis([x for arm in shown for x in spent(arm.courses[measure.name])]))
    return figure


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis for these numbers: ticks at powers of ten, and over two decades or less at 2 and 5, too."""
    found = [value for value in values if value > 0]
    least, most = (math.log10(end(found)) if found else 0.0 for end in (min, max))
    steps = (1,) if most - least > 2 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(math.floor(least) - 1, math.ceil(most) + 2) for step in steps]
    return {"type": "log", "tickvals": ticks}


def widths_over_time(structure: Structure) -> go.Figure:
    """Units of every axis after every edit of one run, with its births and deaths as markers."""
    figure = go.Figure()
    for index, (name, axis) in enumerate(structure.axes.items()):
        figure.add_scatter(
            x=axis.steps,
            y=axis.sizes,
            name=name,
            mode="lines",
            legendgroup=name,
            line={"shape": "hv", "color": colour(index), "width": 2},
            hovertemplate="%{y} units at step %{x}<extra>" + name + "</extra>",
        )
        for symbol, word, counts in (("triangle-up", "born", axis.births), ("triangle-down", "died", axis.deaths)):
            marked = [point for point in zip(axis.steps, axis.sizes, counts, strict=True) if point[2]]
            if marked:
                x, y, text = zip(*marked, strict=True)
                figure.add_scatter(
                    x=x,
                    y=y,
                    text=[f"{n} {word}" for n in text],
                    mode="markers",
                    legendgroup=name,
                    showlegend=False,
                    marker={"symbol": symbol, "size": 9, "color": colour(index)},
                    hovertemplate="%{text} at step %{x}<extra>" + name + "</extra>",
                )
    figure.update_layout(layout("training step", "units"))
    figure.update_yaxes(rangemode="tozero")
    return figure


def layout(x: str, y: str) -> dict[str, Any]:
    """What all figures have in common, with the titles of their axes."""
    return {
        "template": "none",
        "xaxis": {"title": {"text": x}, "automargin": True, "zeroline": False, "tickformat": NUMBERS},
        "yaxis": {"title": {"text": y}, "automargin": True, "zeroline": False, "tickformat": NUMBERS},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "margin": {"l": 50, "r": 15, "t": 30, "b": 50},
        "hoverlabel": {"namelength": -1},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
