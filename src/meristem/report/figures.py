"""Figures of a study, drawn by plotly from records. The page gives text and grid their colours (light or dark)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from meristem.report.colours import colour
from meristem.study.summary import over_time
from meristem.train.record import Run


def accuracy_against_compute(arms: Mapping[str, Sequence[Run]]) -> go.Figure:
    """Test accuracy against training FLOPs: mean over the seeds and 95 % confidence band of every arm."""
    figure = go.Figure()
    for index, (name, runs) in enumerate(arms.items()):
        compute = [point.mean / 1e9 for point in over_time(runs, lambda e: e.flops)]
        accuracy = over_time(runs, lambda e: 100 * e.accuracy)
        mean = [point.mean for point in accuracy]
        if len(runs) > 1:
            edge = [min(point.high, 100) for point in accuracy] + [max(point.low, 0) for point in accuracy[::-1]]
            band = {"x": compute + compute[::-1], "y": edge, "fill": "toself", "fillcolor": colour(index, 0.2)}
            figure.add_scatter(
                **band, line={"width": 0}, mode="lines", hoverinfo="skip", legendgroup=name, showlegend=False
            )
        figure.add_scatter(
            x=compute,
            y=mean,
            name=name,
            mode="lines+markers",
            legendgroup=name,
            line={"color": colour(index), "width": 2.5},
            marker={"size": 5},
            hovertemplate="%{y:.1f} % after %{x:.3g} GFLOP<extra>" + name + "</extra>",
        )
    figure.update_layout(_layout("training compute (GFLOP)", "test accuracy (%)"))
    figure.update_xaxes(type="log", dtick=1, minor={"showgrid": False})
    return figure


def widths_over_time(runs: Sequence[Run]) -> go.Figure:
    """Units of every editable axis after every edit of the first run, with its births and deaths as markers."""
    run = runs[0]
    figure = go.Figure()
    for index, axis in enumerate(run.evaluations[-1].sizes):
        steps, sizes = _course(run, axis)
        figure.add_scatter(
            x=steps,
            y=sizes,
            name=axis,
            mode="lines",
            legendgroup=axis,
            line={"shape": "hv", "color": colour(index), "width": 2},
            hovertemplate="%{y} units at step %{x}<extra>" + axis + "</extra>",
        )
        for symbol, word, counts in (
            ("triangle-up", "born", {c.step: c.births.get(axis, 0) for c in run.changes}),
            ("triangle-down", "died", {c.step: c.deaths.get(axis, 0) for c in run.changes}),
        ):
            marked = [(step, size, counts[step]) for step, size in zip(steps, sizes, strict=True) if counts.get(step)]
            if marked:
                x, y, text = zip(*marked, strict=True)
                figure.add_scatter(
                    x=x,
                    y=y,
                    text=[f"{n} {word}" for n in text],
                    mode="markers",
                    legendgroup=axis,
                    showlegend=False,
                    marker={"symbol": symbol, "size": 9, "color": colour(index)},
                    hovertemplate="%{text} at step %{x}<extra>" + axis + "</extra>",
                )
    figure.update_layout(_layout("training step", "units"))
    figure.update_yaxes(rangemode="tozero")
    return figure


def _course(run: Run, axis: str) -> tuple[list[int], list[int]]:
    """Steps and sizes of one axis: at the start, after every edit and at the end."""
    size = run.evaluations[-1].sizes[axis]
    steps, sizes = [run.evaluations[-1].step], [size]
    for change in reversed(run.changes):
        steps.append(change.step)
        sizes.append(size)
        size += change.deaths.get(axis, 0) - change.births.get(axis, 0)
    return [0, *reversed(steps)], [size, *reversed(sizes)]


def _layout(x: str, y: str) -> dict[str, Any]:
    return {
        "template": "none",
        "xaxis": {"title": {"text": x}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": y}, "automargin": True, "zeroline": False},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "margin": {"l": 50, "r": 15, "t": 30, "b": 50},
        "hoverlabel": {"namelength": -1},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
