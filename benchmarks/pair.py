"""Two sides measured alternately in one run, and how results are written."""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Worker:
    """A process that measures one side; see `worker.py`, or another module that answers alike."""

    def __init__(self, python: str, side: str, worker: str = "benchmarks.worker") -> None:
        self._command = [python, "-m", worker, side]
        self.process = self._started()

    def run(self, task: str, model: str, patience: float | None = None) -> dict[str, Any]:
        """One measurement on a fresh model.

        Args:
            task: what to measure.
            model: its name.
            patience: seconds after which there is no answer, and the process begins anew; None for ever.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"task": task, "model": model}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], patience)[0]:
            self._begin_anew()
            return {"error": f"no answer within {patience:g} s"}
        line = self.process.stdout.readline()
        if not line:
            self._begin_anew()
            return {"error": "the worker died"}
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _begin_anew(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._started()

    def _started(self) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def options(description: str | None) -> argparse.Namespace:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--peer-python",
        default=os.environ.get("MERISTEM_PEER_PYTHON"),
        help="interpreter of an environment made from benchmarks/peers.txt; default: $MERISTEM_PEER_PYTHON",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side, after one that is dropped")
    parser.add_argument("--models", nargs="*", help="only these models")
    return parser.parse_args()


def compare(task: str, models: Sequence[str], peer_python: str | None, rounds: int) -> list[dict[str, Any]]:
    """Measure a task on every model: ours and, if there is a peer, the peer's, taking turns."""
    sides = {"ours": Worker(sys.executable, "ours")}
    if peer_python:
        sides["peer"] = Worker(peer_python, "peer")
    rows = []
    for model in models:
        taken: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(rounds + 1):
            for side, worker in sides.items():
                found = worker.run(task, model)
                if turn or "error" in found:
                    taken[side].append(found)
        rows.append({"model": model, **summarized(taken)})
        print(json.dumps(rows[-1]), flush=True)
    for worker in sides.values():
        worker.close()
    return rows


def summarized(taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each side, and medians of the ratios of neighbouring measurements."""
    row: dict[str, Any] = {}
    for side, found in taken.items():
        errors = [f["error"] for f in found if "error" in f]
        row[side] = {"error": errors[0]} if errors else median_of(found)
    if "peer" in row and "error" not in row["peer"] and "error" not in row["ours"]:
        for what in ("seconds", "peak_bytes"):
            pairs = zip(taken["ours"], taken["peer"], strict=True)
            row[f"ratio_{what}"] = round(statistics.median(a[what] / max(b[what], 1) if what == "peak_bytes" else
                                                           a[what] / b[what] for a, b in pairs), 3)  # fmt: skip
    return row


def median_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the numbers; anything else as in the last measurement."""
    last = found[-1]
    numbers = {k: statistics.median(f[k] for f in found) for k, v in last.items() if isinstance(v, int | float)}
    return {**last, **{k: round(v, 5) for k, v in numbers.items()}}


def machine(peers: str = "peers.txt") -> dict[str, Any]:
    """What the numbers were measured on; the peer's versions are those of a requirements file."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in ("meristem", "torch", "timm", "transformers")},
        "peer": [x for x in (ROOT / "benchmarks" / peers).read_text().split("\n") if "==" in x],
    }


def installed(package: str) -> str | None:
    """The version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(name: str, results: Any, peers: str = "peers.txt") -> None:
    """Write one benchmark's results with the machine they were measured on."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(peers), "results": results}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
