"""The smallest model of every family of timm, judged: `python -m tests.zoo.families` writes docs/families.md.

For each model all axes are pruned to half in one edit, grown by one, and reordered, in float64 with random weights, and
the model must answer as the judge says. Each has a process and ten minutes of its own. About half an hour in all; what
is there in `--out` is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import nn

from . import torchvision_stub
from .every_axis import CHECKS
from .judge import Subject, subject, together
from .report import changeable, frozen_parameters
from .row import Row, image
from .timm_models import create

ROOT = Path(__file__).parents[2]
SIZES: tuple[tuple[int, dict[str, Any]], ...] = ((64, {}), (64, {"img_size": 64}), (224, {}), (256, {}), (299, {}))
"""Sizes of images and settings that go with them: the first that a model takes is used."""
EDITS = ("prune to half", "grow by 1", "reorder")
PATIENCE = 600.0
"""Seconds for each."""
LARGEST = 140e6
"""Parameters above which a model, its copies and float64 take too much memory."""


def smallest() -> dict[str, tuple[float, str]]:
    """By family, which is a file of timm: the published model with the fewest parameters, and how many."""
    torchvision_stub.install()
    import timm

    names = {family: timm.list_models(module=family, exclude_filters="test_*") for family in timm.list_modules()}
    return {
        family: min((parameters(name), name) for name in names[family]) for family in sorted(names) if names[family]
    }


def parameters(name: str) -> float:
    """How many a model has; infinitely many if it cannot be built without weights."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in create(name).parameters())
    except Exception:  # whatever it is; a family of which no model can be built is an entry that says so
        return float("inf")


def judged(name: str) -> dict[str, Any]:
    """What the map holds of a model, and which edits go wrong."""
    torch.set_num_threads(1)
    row = fitting(name)
    traced = subject(row)
    able, total = changeable(traced.axes)
    return {
        "size": row.example(1)[0][0].shape[-1],
        "parameters": total,
        "editable": len(traced.axes.editable),
        "changeable_share": able / total,
        "frozen_parameters": frozen_parameters(traced.axes),
        "problems": problems(traced),
    }


def fitting(name: str) -> Row:
    """The model with the first size of images that it takes.

    Raises:
        RuntimeError: it takes none.
    """
    refused = []
    for size, settings in SIZES:
        row = Row(name, partial(create, name, num_classes=7, **settings), image(size))
        try:
            model: nn.Module = row.model(torch.float32)
            with torch.no_grad():
                model(*row.example(dtype=torch.float32)[0])
        except Exception as error:
            refused.append(f"{size}: {type(error).__name__}: {error}")
        else:
            return row
    raise RuntimeError("; ".join(refused))


def problems(traced: Subject) -> dict[str, str]:
    """What goes wrong, by the edit and the fewest axes with which it does."""
    return {f"{edit}: {who}": why for edit in EDITS for who, why in together(CHECKS[edit], traced).items()}


def asked(name: str, count: float) -> dict[str, Any]:
    """The same from a process of its own; what keeps it from being judged is an entry too."""
    if count > LARGEST:
        return {"error": f"not judged: {count / 1e6:.0f} M parameters are too many"}
    command = [sys.executable, "-m", "tests.zoo.families", "--only", name]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return {"error": f"no verdict within {PATIENCE:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def page(entries: Sequence[Mapping[str, Any]]) -> str:
    """The report."""
    known = [e for e in entries if "error" not in e]
    wrong = sum(bool(e["problems"]) for e in known)
    whole = sum(e["changeable_share"] >= 0.995 for e in known)
    lines = [
        "# Every family of timm",
        "",
        "The smallest published model of each, random weights, float64: all editable axes are pruned to half in one",
        "edit, grown by one unit, and reordered. Every edited model must run and train; reordered it must answer like",
        "the original, grown likewise on all axes that say *exact*, and pruned like the original with silenced units,",
        "on all axes but those where that rightly differs (normalized or counted units). *Changeable* is the share of",
        "parameters of which at least one dimension can be edited. Regenerate with `make families`.",
        "",
        f"Of {len(entries)} families {len(known)} are judged; in {len(known) - wrong} every edit is right; in {whole}",
        "at least 99.5 % of the parameters can change.",
        "",
        "| family | model | image | parameters | editable axes | changeable | wrong edits |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for e in entries:
        if "error" in e:
            lines.append(f"| {e['family']} | {e['name']} | | | | | {cell(e['error'])} |")
            continue
        verdict = "; ".join(f"{where}: {what}" for where, what in e["problems"].items()) or "none"
        lines.append(
            f"| {e['family']} | {e['name']} | {e['size']} | {e['parameters'] / 1e6:.1f} M | {e['editable']} | "
            f"{e['changeable_share']:.1%} | {cell(verdict)} |"
        )
    lines += ["", "## What cannot change, where it is over half a percent", ""]
    for e in known:
        if e["changeable_share"] < 0.995:
            reasons = list(e["frozen_parameters"].items())[:4]
            lines += [f"- {e['name']}: " + "; ".join(f"{r} ({n / 1e6:.2f} M)" for r, n in reasons)]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Fit for a table."""
    return text.replace("|", "/")[:160]


def main() -> None:
    """Judge what is not judged yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="judge this model and print what was found")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "families", help="where the findings are kept")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(judged(options.only)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for family, (count, name) in track(smallest().items(), "judging"):
        file = options.out / f"{family}.json"
        if not file.is_file():
            file.write_text(json.dumps({"family": family, "name": name, **asked(name, count)}, indent=1) + "\n")
        entries.append(json.loads(file.read_text()))
    (ROOT / "docs" / "families.md").write_text(page(entries))


if __name__ == "__main__":
    main()
