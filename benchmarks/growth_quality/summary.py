"""All runs of a scale in one file: means and 95 % confidence intervals over the seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.growth_quality.settings import SCALES
from benchmarks.growth_quality.tasks import Task
from benchmarks.pair import RESULTS, machine
from meristem.study.summary import Interval, Row, interval, over_time, summarize
from meristem.train.record import Change, Evaluation, Run


def write_summary(scale: str, tasks: Sequence[Task], runs: Path, results: Path = RESULTS) -> None:
    """Write `growth_quality.json`, with what there is; it says how many runs are missing."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    failures: dict[tuple[str, str], list[str]] = defaultdict(list)
    missing = 0
    for task in tasks:
        result, failure = task.result(runs), task.failure(runs)
        if result is not None:
            found[task.case, task.arm].append(result)
        elif failure is not None:
            failures[task.case, task.arm].append(failure)
        else:
            missing += 1
    rows = [
        {"case": case, "arm": arm, **row(arm, found[case, arm]), "failures": failures[case, arm]}
        for case, arm in dict.fromkeys((task.case, task.arm) for task in tasks)
        if found[case, arm] or failures[case, arm]
    ]
    content = {
        "machine": machine(),
        "scale": scale,
        "settings": asdict(SCALES[scale]),
        "missing_runs": missing,
        "results": rows,
    }
    (results / "growth_quality.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(rows)} rows, {missing} runs are missing")


def row(arm: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One arm of one case. Numbers are `[mean, half width]`; the half width is None for a single seed."""
    undefined = results[0]["undefined"] if results else {}
    if not results or results[0]["run"] is None:
        return {"undefined": undefined}
    runs = [read(result["run"]) for result in results]
    summary: Row = summarize(arm, runs)
    names = ("final_accuracy", "mean_accuracy", "parameters", "flops", "seconds")
    numbers = {name: pair(getattr(summary, name)) for name in names}
    numbers["inactive"] = pair(interval([share(result["newborns"], "inactive") for result in results]))
    numbers["silent"] = pair(interval([share(result["newborns"], "silent") for result in results]))
    curve = {
        "flops": [point.mean for point in over_time(runs, lambda e: e.flops)],
        "accuracy": [point.mean for point in over_time(runs, lambda e: e.accuracy)],
    }
    notes = sorted({note.partition(": ")[2] for result in results for note in result["notes"]})
    return {"seeds": len(runs), **numbers, "undefined": undefined, "notes": notes, "curve": curve}


def pair(found: Interval) -> list[float | None]:
    """Mean and half width."""
    return [found.mean, None if math.isnan(found.half_width) else found.half_width]


def share(newborns: dict[str, int], what: str) -> float:
    """Of the newborns; 0 where there are none."""
    return newborns[what] / newborns["units"] if newborns["units"] else 0.0


def read(content: dict[str, Any]) -> Run:
    """A run from JSON."""
    evaluations = tuple(Evaluation(**e) for e in content["evaluations"])
    return Run(content["name"], content["seed"], evaluations, tuple(Change(**c) for c in content["changes"]))
