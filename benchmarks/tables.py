"""Writes docs/benchmarks.md from the committed results: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.pair import RESULTS, ROOT

HEAD = """# Benchmarks

Written by `python -m benchmarks.tables` from `benchmarks/results`; `make bench` measures anew. Both sides take turns in
one run, one thread each, on fresh models with random weights; ratios are medians of pairs, below 1 meristem is better.
The peer is Torch-Pruning. Bad results are listed like good ones.
"""


def main() -> None:
    """Write the page."""
    sections = [HEAD, machine(), trace(), recording(), job(), commit(), controller()]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(sections))


def load(name: str) -> dict[str, Any]:
    """One file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, numbers with three digits."""
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    lines += ["| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What was measured on."""
    found = load("trace")["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return f"Machine: {found['cpu']}, {found['cores']} cores; Python {found['python']}; {versions}; {found['date']}.\n"


def trace() -> str:
    """Tracing, and how it grows with depth."""
    found = load("trace")["results"]
    rows = [(r["model"], r["ours"]["seconds"], r["peer"]["seconds"], r["ratio_seconds"]) for r in found["side_by_side"]]
    depth = [(r["layers"], r["seconds"], 1e3 * r["per_layer"]) for r in found["depth"]]
    return (
        "## Tracing\n\nThe map with its proof against the peer's dependency graph; the aim is a ratio of at most 2.\n\n"
        + table(["model", "meristem (s)", "peer (s)", "ratio"], rows)
        + "\nBERT of growing depth:\n\n"
        + table(["layers", "seconds", "ms a layer"], depth)
    )


def recording() -> str:
    """Why the recording leads."""
    rows = [(r["model"], r["recording"], r["export"], r["ratio"]) for r in load("recording")["results"]]
    return (
        "## Recording against torch.export\n\nOne recording of the operators, without solving and proof.\n\n"
        + table(["model", "recording (s)", "torch.export (s)", "ratio"], rows)
    )


def job() -> str:
    """The whole job."""
    rows = [
        (r["model"], r["ours"]["seconds"], r["peer"]["seconds"], r["ratio_seconds"], r["ratio_peak_bytes"])
        for r in load("job")["results"]
    ]
    return (
        "## The whole job\n\nTrace, prune half of everything by the magnitude of the whole group, commit; the aim is a "
        "ratio below 1 in time and memory.\n\n"
        + table(["model", "meristem (s)", "peer (s)", "ratio of time", "ratio of extra memory"], rows)
    )


def commit() -> str:
    """A commit alone."""
    found = load("commit")["results"]
    rows = [
        (kind, r["model"], r["ours"]["axes"], r["ours"]["seconds"], r["ours"]["copy_seconds"], limit(r["ours"]))
        for kind in ("commit", "growth")
        for r in found[kind]
    ]
    rows = [("prune half" if kind == "commit" else "grow a quarter", *rest) for kind, *rest in rows]
    return (
        "## A commit alone\n\nEvery axis at once. The last column is the time without 1 ms an axis in units of copying "
        "the edited tensors once; the aim is at most 2.\n\n"
        + table(["edit", "model", "axes", "commit (s)", "one copy (s)", "copies"], rows)
    )


def limit(ours: dict[str, float]) -> float:
    """Copies beside 1 ms an axis."""
    return max(0.0, ours["ratio_without_axes"])


def controller() -> str:
    """Steps without an edit, and training after edits."""
    found = load("controller")["results"]
    idle = [(r["case"], r["schedule"], r["ratio_measured"], r["ratio_of_call"]) for r in found["steps without an edit"]]
    text = "## The controller\n\nA training step with `plasticity.step` against the bare loop (aim: at most 1.01).\n\n"
    text += table(["case", "schedule", "ratio measured", "ratio by the call's own time"], idle)
    after = [(r["case"], r["edited by"], r["ratio"]) for r in found["steps after edits"]]
    text += "\nSpeed after edits against the same architecture built directly (aim: within 2 %).\n\n"
    text += table(["case", "edited by", "ratio"], after)
    return text


if __name__ == "__main__":
    main()
