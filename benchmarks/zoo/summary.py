"""What every side made of the zoo, as a part of the page of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pair import RESULTS

SIDES = {
    "ours": "meristem",
    "peer": "Torch-Pruning",
    "hinted": "Torch-Pruning, heads given and sizes corrected by hand",
}
GOOD = ("right", "runs")
OUTCOMES = {
    "right": "right",
    "runs": "right",
    "nothing removed": "nothing removed",
    "wrong": "wrong",
    "failed": "error",
}
"""What is counted, by the beginning of a verdict."""


def page(results: Path = RESULTS) -> str:
    """The part of the page; empty without results."""
    path = results / "zoo_pruning.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())["results"]
    models, patience = found["models"], found["patience_seconds"]
    compared = [row for row in models if row["compared"]]
    running = [row for row in models if not row["compared"]]
    return (
        "## Architectures pruned correctly\n\n"
        "Half of everything that a side thinks can go, of every model of the zoo (small configurations, random "
        "weights, float64), nothing said but which layer gives the answer. Right: the pruned model answers like the "
        "original whose dropped entries are zero (norms that mix units reduced to their affine part on both sides), at "
        f"two batch sizes. Error: an exception, or no result within {patience:g} s.\n\n"
        f"{_counts(compared)}\n"
        f"On {len(running)} more, removing units rightly differs from silencing them somewhere (a softmax over them, "
        "code that divides by the number of units); there the pruned model only has to run and to answer in the same "
        f"shape:\n\n{_counts(running)}\n"
        "What the peer does not get right, and why:\n\n"
        f"{_failures(models)}"
    )


def _counts(models: Sequence[Mapping[str, Any]]) -> str:
    titles = tuple(dict.fromkeys(OUTCOMES.values()))
    lines = [f"| side | models | {' | '.join(titles)} |", "| --- |" + " ---: |" * (len(titles) + 1)]
    for side, name in SIDES.items():
        told = [outcome(row[side]["verdict"]) for row in models if side in row]
        lines.append(f"| {name} | {len(told)} | {' | '.join(str(told.count(title)) for title in titles)} |")
    return "\n".join(lines) + "\n"


def _failures(models: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| model | without hints | with hints |", "| --- | --- | --- |"]
    for row in models:
        told = [row[side]["verdict"] for side in ("peer", "hinted") if side in row]
        if any(verdict not in GOOD for verdict in told):
            lines.append(f"| {row['model']} | {' | '.join(_short(verdict) for verdict in told)} |")
    return "\n".join(lines) + "\n"


def outcome(verdict: str) -> str:
    """As what a verdict counts."""
    return OUTCOMES[verdict.split(":")[0]]


def _short(verdict: str) -> str:
    """A verdict in the cell of a table."""
    text = " ".join(verdict.replace("|", "/").split())
    return text if len(text) <= 90 else f"{text[:87]}..."
