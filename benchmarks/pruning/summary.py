"""All runs of a scale in one file, and as a table and a figure for the page of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.pair import RESULTS, ROOT, machine
from benchmarks.pruning.execute import Task
from benchmarks.pruning.settings import OWN, SCALES
from meristem.report.colours import colour

NUMBERS = (
    "accuracy",
    "tuned_accuracy",
    "flops",
    "parameters",
    "speed_up",
    "seconds",
    "wall_seconds",
    "peak_bytes",
    "base_accuracy",
)
TITLES = (
    "criterion",
    "side",
    "FLOPs left (%)",
    "accuracy (%)",
    "after tuning (%)",
    "speed-up",
    "call (s)",
    "call (CPU s)",
    "extra memory (MB)",
)
SIDES = {"ours": "meristem", "peer": "Torch-Pruning"}
WIDTH, HEIGHT, MARGIN = 420, 230, 40
"""Of one panel of the figure in pixels, and the space around its axes."""

Row = Mapping[str, Any]


def write_summary(scale: str, tasks: Sequence[Task], runs: Path, results: Path = RESULTS) -> int:
    """Write `pruning.json` with what there is.

    Returns:
        how many runs are missing.
    """
    found = [json.loads(task.path(runs).read_text()) for task in tasks if task.path(runs).is_file()]
    cases = dict.fromkeys((r["net"], r["removed"], r["criterion"], r["side"]) for r in found)
    rows = [
        row([r for r in found if (r["net"], r["removed"], r["criterion"], r["side"]) == case], case) for case in cases
    ]
    missing = len(tasks) - len(found)
    content = {"machine": machine(), "scale": scale, "settings": asdict(SCALES[scale]), "missing_runs": missing}
    (results / "pruning.json").write_text(json.dumps({**content, "results": rows}, indent=1) + "\n")
    return missing


def row(runs: Sequence[Row], case: tuple[str, float, str, str]) -> dict[str, Any]:
    """Every number as its values over the seeds, and the errors."""
    good = [run for run in runs if "error" not in run]
    values = {name: [round(run[name], 5) for run in good] for name in NUMBERS}
    named = dict(zip(("net", "removed", "criterion", "side"), case, strict=True))
    return {**named, **values, "errors": [run["error"] for run in runs if "error" in run]}


def page(results: Path = RESULTS, static: Path = ROOT / "docs" / "_static") -> str:
    """The part of the page of benchmarks, with its figure written beside it; empty without results."""
    path = results / "pruning.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())
    (static / "pruning.svg").write_text(figure(found["results"]))
    return section(found)


def section(found: Mapping[str, Any]) -> str:
    """All of it as text."""
    settings, parts = found["settings"], []
    rows = found["results"]
    for net, removed in dict.fromkeys((r["net"], r["removed"]) for r in rows):
        members = [r for r in rows if (r["net"], r["removed"]) == (net, removed)]
        base = mean(value for r in members for value in r["base_accuracy"])
        parts.append(f"### {net}, {removed:.0%} removed (before: {100 * base:.1f} %)\n\n{_table(members)}")
    missing = f" {found['missing_runs']} runs are missing." if found["missing_runs"] else ""
    return (
        "## Pruning trained nets\n\n"
        f"Nets trained on {settings['images'][0] or 'all'} images of CIFAR-10, averaged to 16 x 16, for "
        f"{settings['epochs']} epochs; pruned to the same share of operations by the same share of every axis: the "
        "peer to the nearest that a share of channels gives, then meristem to just that; fine-tuned for "
        f"{settings['tuning']} epoch{'s' * (settings['tuning'] != 1)} by the same code. "
        f"{settings['seeds']} seeds, settings `{found['scale']}`; means, "
        "accuracies with the range over seeds, medians of times, which are those of the clock and of the processor on "
        "one thread; speed-ups are of the processor's time. The time of meristem's call includes "
        "finding the amount for the target; the peer's share of channels was found before, which is not counted. "
        f"The last row of each table is what `shrink` does by default.{missing}\n\n"
        "```{image} _static/pruning.svg\n:alt: Accuracy after fine-tuning against operations left\n```\n\n"
        + "\n".join(parts)
    )


def _table(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(TITLES) + " |", "| --- | --- |" + " ---: |" * (len(TITLES) - 2)]
    return "\n".join([*lines, *("| " + " | ".join(cells(r)) + " |" for r in rows)]) + "\n"


def cells(row: Row) -> tuple[str, ...]:
    """One row as text, in the order of `TITLES`."""
    first = (row["criterion"], SIDES[row["side"]])
    if not row["accuracy"]:
        return (*first, "", f"failed: {row['errors'][0]}", *([""] * (len(TITLES) - 4)))
    return (
        *first,
        f"{100 * mean(row['flops']):.1f}",
        _ranged(row["accuracy"]),
        _ranged(row["tuned_accuracy"]),
        f"{mean(row['speed_up']):.2f}",
        f"{median(row['wall_seconds']):.3f}",
        f"{median(row['seconds']):.3f}",
        f"{mean(row['peak_bytes']) / 1e6:.1f}",
    )


def _ranged(values: Sequence[float]) -> str:
    """Mean, lowest and highest, in percent."""
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}-{100 * max(values):.1f})"


def figure(rows: Sequence[Row]) -> str:
    """An SVG: accuracy after fine-tuning against operations left, a panel for each net."""
    good = [row for row in rows if row["tuned_accuracy"]]
    nets, criteria = (list(dict.fromkeys(row[key] for row in good)) for key in ("net", "criterion"))
    parts = []
    for index, net in enumerate(nets):
        panel = _panel(net, [row for row in good if row["net"] == net], criteria)
        parts.append(f'<g transform="translate({index * WIDTH},0)">{panel}</g>')
    entries = [*((name, colour(i), "") for i, name in enumerate(criteria)), ("dashed: Torch-Pruning", "#333", "4 3")]
    for i, (name, stroke, dash) in enumerate(entries):
        x, y = 20 + i % 3 * WIDTH, HEIGHT + 16 + i // 3 * 18
        parts.append(f'<line x1="{x}" x2="{x + 20}" y1="{y - 4}" y2="{y - 4}" stroke="{stroke}"{_dash(dash)}/>')
        parts.append(f'<text x="{x + 26}" y="{y}">{name}</text>')
    height = HEIGHT + 16 + -(-len(entries) // 3) * 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(1, len(nets)) * WIDTH} {height}" font-size="11" '
        f'font-family="sans-serif" fill="#333"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(net: str, rows: Sequence[Row], criteria: Sequence[str]) -> str:
    values = [mean(row["tuned_accuracy"]) for row in rows]
    low, high = min(values) - 0.01, max([*values, *(mean(row["base_accuracy"]) for row in rows)]) + 0.01

    def across(left: float) -> float:
        return MARGIN + (left - 0.2) / 0.6 * (WIDTH - MARGIN - 12)

    def up(share: float) -> float:
        return HEIGHT - MARGIN - (share - low) / (high - low) * (HEIGHT - MARGIN - 24)

    parts = [f'<text x="{MARGIN}" y="14" font-weight="bold">{net}</text>']
    for tick in range(-(-int(1000 * low) // 50), int(20 * high) + 1):
        y = up(tick / 20)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e5e0"/>')
        parts.append(f'<text x="{MARGIN - 4}" y="{y + 4:.1f}" text-anchor="end">{5 * tick} %</text>')
    for left in (0.3, 0.5, 0.7):
        parts.append(f'<text x="{across(left):.1f}" y="{HEIGHT - MARGIN + 14}" text-anchor="middle">{left:.0%}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">FLOPs left</text>')
    base = up(mean(value for row in rows for value in row["base_accuracy"]))
    parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 12}" y1="{base:.1f}" y2="{base:.1f}" stroke="#333"/>')
    for criterion in criteria:
        for side in SIDES:
            members = [row for row in rows if (row["criterion"], row["side"]) == (criterion, side)]
            points = " ".join(f"{across(mean(r['flops'])):.1f},{up(mean(r['tuned_accuracy'])):.1f}" for r in members)
            width = 2.5 if criterion == OWN else 1.2
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour(criteria.index(criterion))}" '
                f'stroke-width="{width}"{_dash("4 3" if side == "peer" else "")}/>'
            )
    return "".join(parts)


def _dash(pattern: str) -> str:
    return f' stroke-dasharray="{pattern}"' if pattern else ""
