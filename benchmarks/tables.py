"""Writes docs/benchmarks.md from the committed results: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.growth_quality.figure import figure
from benchmarks.growth_quality.table import TITLES, asked, by_case, cells
from benchmarks.pair import RESULTS, ROOT
from benchmarks.pruning.summary import page as pruning
from benchmarks.zoo.summary import page as zoo

HEAD = """# Benchmarks

Written by `python -m benchmarks.tables` from `benchmarks/results`; `make bench` measures anew. Both sides take turns in
one run, one thread each, on fresh models with random weights; ratios are medians of pairs, below 1 meristem is better.
The peer is Torch-Pruning, for growth gromo. Bad results are listed like good ones.
"""


def main() -> None:
    """Write the page."""
    sections = {
        "trace": trace(),
        "recording": recording(),
        "job": job(),
        "commit": commit(),
        "controller": controller(),
        "diagnose": diagnose(),
        "masks": masks(),
        "pruning": pruning(),
        "zoo_pruning": zoo(),
        "growth": growth(),
        "growth_quality": growth_quality(),
    }
    page = [HEAD, *(f"{text}\n{machine(name)}" for name, text in sections.items() if text)]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(page))


def load(name: str) -> dict[str, Any]:
    """One file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, numbers with three digits."""
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    lines += ["| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine(name: str) -> str:
    """What the results of a file were measured on."""
    found = load(name)["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items() if number)
    where = f"{found['cpu']}, {found['cores']} cores; Python {found['python']}; {versions}; {found['date']}"
    return f"*Measured on {where}.*\n"


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
        (
            kind,
            r["model"],
            *(r["ours"][key] for key in ("axes", "seconds", "copy_seconds", "growth")),
            *limits(r["ours"]),
        )
        for kind in ("commit", "growth")
        for r in found[kind]
    ]
    rows = [("prune half" if kind == "commit" else "grow a quarter", *rest) for kind, *rest in rows]
    return (
        "## A commit alone\n\nEvery axis at once. The last columns are the time without 1 ms an axis in units of "
        "copying the edited tensors once: as they were before, and as they are after a growth, since all of that is "
        "written; the aim is at most 2.\n\n"
        + table(
            ["edit", "model", "axes", "commit (s)", "one copy (s)", "size after", "copies before", "copies after"], rows
        )
    )


def limits(ours: dict[str, float]) -> tuple[float, float]:
    """Copies beside 1 ms an axis, of the tensors before and of the larger of both."""
    return max(0.0, ours["ratio_without_axes"]), max(0.0, ours["copies_written"])


def controller() -> str:
    """Steps without an edit, and training after edits."""
    found = load("controller")["results"]
    idle = [
        (r["case"], r["schedule"], *(f"{r[key]:.4f}" for key in ("ratio_measured", "ratio_of_call")))
        for r in found["steps without an edit"]
    ]
    text = "## The controller\n\nA training step with `plasticity.step` against the bare loop (aim: at most 1.01).\n\n"
    text += table(["case", "schedule", "ratio measured", "ratio by the call's own time"], idle)
    after = [(r["case"], r["edited by"], f"{r['ratio']:.4f}") for r in found["steps after edits"]]
    text += "\nSpeed after edits against the same architecture built directly (aim: within 2 %).\n\n"
    text += table(["case", "edited by", "ratio"], after)
    return text


def diagnose() -> str:
    """What a monitor costs."""
    rows = [
        (r["case"], r["units"], r["ratio"], r["ratio_cpu"], r["ratio_of_sample"]) for r in load("diagnose")["results"]
    ]
    return (
        "## The monitor\n\nTraining with a `Monitor` that samples one step in ten against training without (aim: at "
        "most 1.02): by wall time, by CPU time, and by the time of a sample alone. A sample costs a millisecond or two "
        "however small the net, which the smallest one notices; `every=` makes it rarer.\n\n"
        + table(["case", "units", "wall time", "CPU time", "sample alone"], rows)
    )


def masks() -> str:
    """What masks of single weights cost."""
    rows = [
        (r["case"], r.get("method", "RigL"), r["optimizer"], r["ratio_of_step"], r["ratio_of_update"])
        for r in load("masks")["results"]
    ]
    return (
        "## Masks of single weights\n\nA training step with masks (density 0.1) against a dense one (aim: at most "
        "1.05), and an update (drop and grow) in units of a training step (aim: at most 1). Of DeepR every "
        "step is an update.\n\n"
        + table(["model", "method", "optimizer", "masked step / dense step", "update / step"], rows)
    )


def growth() -> str:
    """A growth step against gromo's."""
    if not (RESULTS / "growth.json").is_file():
        return ""
    rows = [
        (r["case"], side, *cost(r[key]), r.get("ratio_seconds", "") if key == "peer" else "")
        for r in load("growth")["results"]
        for key, side in (("ours", f"meristem {r['method']}"), ("peer", r.get("opponent", "")))
        if key in r
    ]
    return (
        "## A growth step\n\nThe training step on which statistics are taken, the solve and the insertion, minus an "
        "ordinary training step, in units of an ordinary step of the same net; and how much more memory it needs at "
        "its peak. `mlp`: 784-256-256-10, batch 1024, 64 units; `conv`: 3-32-64-128 on 32 x 32 images, batch 128, 16 "
        "units; `vit_small`: 64 units in every MLP, batch 8; `resnet18`: 16 units on every axis, batch 32. gromo's "
        "outgoing kernels are full unless it says 1x1; `lean` records only the one statistic that GradMax needs, which "
        "its documentation does not show. The ratio is that of meristem's time to the time in this row.\n\n"
        + table(["case", "method", "units", "seconds", "steps", "extra MB", "ratio"], dict.fromkeys(rows))
    )


def cost(found: dict[str, Any]) -> tuple[Any, ...]:
    """Units, seconds, steps and megabytes, or the error."""
    if "error" in found:
        return (found["error"], "", "", "")
    return int(found["births"]), found["seconds"], found["steps"], round(found["peak_bytes"] / 1e6)


def growth_quality() -> str:
    """All growth methods under equal conditions, and the figure."""
    if not (RESULTS / "growth_quality.json").is_file():
        return ""
    found = json.loads((RESULTS / "growth_quality.json").read_text())
    settings, rows = found["settings"], found["results"]
    (ROOT / "docs" / "_static" / "growth_quality.svg").write_text(figure(rows))
    missing = f" {found['missing_runs']} runs are missing." if found["missing_runs"] else ""
    later = found.get("remeasured")
    again = (
        f" {', '.join(later['arms'])} were measured anew on {later['date']}, on another machine ({later['cpu']}): "
        "do not compare their seconds with those of others."
        if later
        else ""
    )
    picture = "```{image} _static/growth_quality.svg\n:alt: Test accuracy against training FLOPs\n```\n\n"
    tables = []
    for case, members in by_case(rows).items():
        whole = asked(members)
        lines = [cells(row, whole, settings["seeds"]) for row in members]
        tables.append(f"### {case}\n\n{table(TITLES, lines)}")
    return (
        "## Growth methods under equal conditions\n\n"
        f"From the same small nets, asked for the same widths in {settings['edits']} edits; {settings['epochs']} "
        f"epochs, {settings['seeds']} seeds, settings `{found['scale']}`. A method that gives fewer newborns than it "
        "is asked for ends smaller: remarks say at what share of the parameters of the large net, and its accuracy is "
        "to be read beside that. Mean ± 95 % confidence interval, of the seeds whose runs did not fail. Operations and "
        "seconds include those of growth. A newborn is inactive if at the end, on the test images, its readers see "
        "less than a thousandth of what they see of the mean unit of its axis; fixed nets: all units. "
        f"Axes for which a method is not defined keep their small width.{missing}{again}\n\n"
        + picture
        + "\n".join(tables)
    )


if __name__ == "__main__":
    main()
