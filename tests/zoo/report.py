"""What the map holds of every stock model: `python -m tests.zoo.report` writes docs/zoo.md and its JSON.

Published configurations on the meta device: nothing is downloaded, and weights take no memory, since tracing computes
nothing. A parameter counts as changeable if the size of any of its dimensions contains an editable axis.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import meristem
from meristem.axes.expression import leaves
from meristem.axes.map import AxisMap

from .models import STOCK_ROWS
from .row import Row

EXPECTED = {"convolutional": 0.9, "transformer": 0.6}
ROOT = Path(__file__).parents[2]


def changeable(axes: AxisMap) -> tuple[int, int]:
    """Parameters (tied ones once) of which a dimension can change, and all parameters."""
    able = total = 0
    for layout in axes.layouts.values():
        if not layout.buffer:
            count = math.prod(layout.shape(axes.sizes))
            total += count
            if any(axes.axes[axis].editable for dim in layout.dims for axis in leaves(dim)):
                able += count
    return able, total


def frozen_by_reason(axes: AxisMap) -> dict[str, int]:
    """How many axes are frozen for each reason."""
    count = collections.Counter(axis.frozen for axis in axes if axis.frozen)
    return dict(count.most_common())


def frozen_parameters(axes: AxisMap) -> dict[str, int]:
    """How many parameters cannot change, by the reason of the largest of their axes."""
    count: collections.Counter[str] = collections.Counter()
    for layout in axes.layouts.values():
        inside = [axes.axes[axis] for dim in layout.dims for axis in leaves(dim)]
        if not layout.buffer and inside and not any(axis.editable for axis in inside):
            largest = max(inside, key=lambda axis: axis.size)
            count[largest.frozen or ""] += math.prod(layout.shape(axes.sizes))
    return dict(count.most_common())


def measure(build: Callable[[], nn.Module], inputs: Callable[[int], Any], runs: int) -> dict[str, Any]:
    """Trace one model `runs` times."""
    with torch.device("meta"):
        model, made = build().eval(), inputs(2)
    args, kwargs = ((), made) if isinstance(made, dict) else (made, {})
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        axes = meristem.trace(model, args, kwargs)
        seconds.append(time.perf_counter() - start)
    able, total = changeable(axes)
    return {
        "editable": len(axes.editable),
        "exact": sum(axis.exact for axis in axes),
        "frozen": frozen_by_reason(axes),
        "parameters": total,
        "changeable_share": able / total,
        "frozen_parameters": frozen_parameters(axes),
        "trace_seconds": statistics.median(seconds),
    }


def entry(row: Row, runs: int) -> dict[str, Any]:
    """The report's entry of one row; a model that cannot be traced is an entry too."""
    assert row.stock is not None
    assert row.stock_inputs is not None
    found: dict[str, Any] = {"name": row.name, "family": row.family}
    try:
        return found | measure(row.stock, row.stock_inputs, runs)
    except Exception as error:
        return found | {"error": f"{type(error).__name__}: {error}"}


def table(entries: list[Mapping[str, Any]]) -> str:
    """The report as a page."""
    lines = [
        "# The zoo",
        "",
        "What `meristem.trace` holds of published architectures (on the meta device). *Changeable* is the share of",
        "parameters of which at least one dimension has an editable axis; *exact* counts the editable axes that grow",
        "with zero fan-out without changing the function. Regenerate with `make zoo`.",
        "",
        "| model | parameters | editable axes | exact | frozen axes | changeable | trace |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for e in entries:
        if "error" in e:
            lines.append(f"| {e['name']} | | | | | | {e['error'].splitlines()[0]} |")
            continue
        lines.append(
            f"| {e['name']} | {e['parameters'] / 1e6:.1f} M | {e['editable']} | {e['exact']} | "
            f"{sum(e['frozen'].values())} | {e['changeable_share']:.1%} | {e['trace_seconds']:.2f} s |"
        )
    lines += ["", "## What is frozen, and why", ""]
    for e in entries:
        if e.get("frozen"):
            lines += [f"### {e['name']}", "", "| axes | reason |", "| ---: | --- |"]
            lines += [f"| {count} | {reason.replace('|', '/')} |" for reason, count in e["frozen"].items()]
            short = e["changeable_share"] < EXPECTED.get(e["family"], 0.0)
            if short:
                lines += ["", f"Below the expected {EXPECTED[e['family']]:.0%}. Parameters that cannot change:", ""]
                lines += [f"- {count}: {reason}" for reason, count in e["frozen_parameters"].items()]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how often each model is traced; the median time is kept")
    parser.add_argument("--only", default="", help="trace only models whose name contains this, and print instead")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    entries = []
    for row in STOCK_ROWS:
        if options.only in row.name:
            entries.append(entry(row, options.runs))
            e = entries[-1]
            share = f"{e['changeable_share']:.1%} {e['trace_seconds']:.2f} s" if "error" not in e else e["error"]
            print(f"{row.name:40s} {share}", flush=True)
    if options.only:
        print(table(entries))
        return
    about = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(), "threads": 1}
    (ROOT / "benchmarks" / "results").mkdir(parents=True, exist_ok=True)
    (ROOT / "benchmarks" / "results" / "zoo.json").write_text(
        json.dumps({"about": about, "models": entries}, indent=1) + "\n"
    )
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "zoo.md").write_text(table(entries))


if __name__ == "__main__":
    main()
