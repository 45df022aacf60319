"""The figure: test accuracy against training FLOPs, a panel for each data set, net and norm. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from meristem.report.colours import COLOURS, colour

WIDTH, HEIGHT, MARGIN, COLUMNS = 420, 260, 44, 2
"""Of one panel, in pixels; the space around its axes; panels in a row."""

LEGEND = 18
"""Height of a line of the legend."""

Row = Mapping[str, Any]


def figure(rows: Sequence[Row]) -> str:
    """The SVG of the rows of `growth_quality.json`: the mean course of every arm, its end with the 95 % interval."""
    run = [row for row in rows if "curve" in row]
    cases, arms = list(dict.fromkeys(r["case"] for r in run)), list(dict.fromkeys(r["arm"] for r in run))
    looks = {arm: (colour(i), i // len(COLOURS)) for i, arm in enumerate(arms)}
    parts = []
    for index, case in enumerate(cases):
        x, y = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT
        panel = _panel(case, [row for row in run if row["case"] == case], looks)
        parts.append(f'<g transform="translate({x},{y})">{panel}</g>')
    top = -(-len(cases) // COLUMNS) * HEIGHT
    parts += [_entry(arm, looks[arm], 20 + i % 4 * 200, top + 20 + i // 4 * LEGEND) for i, arm in enumerate(arms)]
    height = top + 20 + -(-len(arms) // 4) * LEGEND
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11" fill="#333"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(case: str, rows: Sequence[Row], looks: Mapping[str, tuple[str, int]]) -> str:
    """One case: FLOPs to the right on a logarithmic scale, accuracy upwards."""
    flops = [math.log10(f) for row in rows for f in row["curve"]["flops"]]
    shares = [a for row in rows for a in row["curve"]["accuracy"]]
    across = _scale(min(flops), max(flops), MARGIN, WIDTH - 12)
    up = _scale(min(shares), max(shares), HEIGHT - MARGIN, 24)
    parts = [f'<text x="{MARGIN}" y="14" font-weight="bold">{escape(case)}</text>', _grid(flops, shares, across, up)]
    for row in rows:
        stroke, shape = looks[row["arm"]]
        course = zip(row["curve"]["flops"], row["curve"]["accuracy"], strict=True)
        points = " ".join(f"{across(math.log10(f)):.1f},{up(a):.1f}" for f, a in course)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{stroke}" stroke-opacity="0.5"/>')
        x, (mean, half) = across(math.log10(row["flops"][0])), row["final_accuracy"]
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(mean - (half or 0)):.1f}" y2="{up(mean + (half or 0)):.1f}" '
            f'stroke="{stroke}"/>'
        )
        parts.append(_mark(shape, x, up(mean), stroke))
    return "".join(parts)


def _grid(flops: Sequence[float], shares: Sequence[float], across: Callable, up: Callable) -> str:
    """Lines with their numbers, and the titles of both axes."""
    parts = []
    for power in range(math.ceil(min(flops)), math.floor(max(flops)) + 1):
        x = across(power)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{HEIGHT - MARGIN}" stroke="#e2e5e0"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 14}" text-anchor="middle">1e{power}</text>')
    for tenth in range(math.ceil(min(shares) * 10), math.floor(max(shares) * 10) + 1):
        y = up(tenth / 10)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e5e0"/>')
        parts.append(f'<text x="{MARGIN - 4}" y="{y + 4:.1f}" text-anchor="end">{10 * tenth} %</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">training FLOPs</text>')
    return "".join(parts)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear scale."""
    width = max(high - low, 1e-9)
    return lambda value: start + (value - low) / width * (end - start)


def _mark(shape: int, x: float, y: float, fill: str) -> str:
    """A disc, a square, a diamond, and so on."""
    if shape % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape % 3 == 2 else ""
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{fill}"{turn}/>'


def _entry(arm: str, look: tuple[str, int], x: float, y: float) -> str:
    """A line of the legend."""
    return f'{_mark(look[1], x, y - 4, look[0])}<text x="{x + 10}" y="{y}">{escape(arm)}</text>'
