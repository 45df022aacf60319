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
    groups = {
        "published, compared": [row for row in models if row["compared"] and published(row)],
        "own small ones, compared": [row for row in models if row["compared"] and not published(row)],
        "published, run only": [row for row in models if not row["compared"] and published(row)],
        "own small ones, run only": [row for row in models if not row["compared"] and not published(row)],
    }
    return (
        "## Architectures pruned correctly\n\n"
        "Half of everything that a side thinks can go, of every model of the zoo (small configurations, random "
        "weights, float64), nothing said but which layer gives the answer. Published architectures are those of timm "
        "and Hugging Face; the small ones are the zoo's own, many of them written to be difficult. Right: the pruned "
        "model answers like the original whose dropped entries are zero (norms that mix units reduced to their affine "
        "part on both sides), at two batch sizes. Where removing units rightly differs from silencing them (a softmax "
        "over them, code that divides by their number) it only has to run and to answer in the same shape. Error: an "
        f"exception, or no result within {patience:g} s.\n\n"
        f"{_counts(groups)}\n"
        "What the peer does not get right, and why:\n\n"
        f"{_failures(models)}"
    )


def published(row: Mapping[str, Any]) -> bool:
    """Whether a model is one of timm or Hugging Face."""
    return row["model"].startswith(("timm/", "hf/"))


def _counts(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    titles = tuple(dict.fromkeys(OUTCOMES.values()))
    lines = [f"| models | side | of | {' | '.join(titles)} |", "| --- | --- |" + " ---: |" * (len(titles) + 1)]
    for group, models in groups.items():
        for side, name in SIDES.items():
            told = [outcome(row[side]["verdict"]) for row in models if side in row]
            counts = " | ".join(str(told.count(title)) for title in titles)
            lines.append(f"| {group} | {name} | {len(told)} | {counts} |")
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
