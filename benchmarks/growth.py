"""A growth step against gromo's, in units of a training step of the same net: `python -m benchmarks.growth`.

One thread, one batch of statistics. What is measured of both sides is the training step during which statistics are
taken, the solve and the insertion, minus an ordinary training step; and how much more memory it needs at its peak. One
process for every side of every case, taking turns. About a quarter of an hour, most of it gromo's full kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from benchmarks.pair import Worker, summarized, write

OPPONENTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("mlp", "TINY"): ("TINY",),
    ("mlp", "GradMax"): ("GradMax", "GradMax lean"),
    ("conv", "TINY"): ("TINY", "TINY 1x1"),
    ("conv", "GradMax"): ("GradMax", "GradMax 1x1", "GradMax lean", "GradMax lean 1x1"),
    ("vit_small", "TINY"): (),
    ("vit_small", "GradMax"): (),
    ("resnet18", "TINY"): (),
}
"""By case and our method, the methods of gromo that it is held against (see `growth_peer.Method`). GradMax has no
meaning behind BatchNorm, so not in `resnet18`."""


ROUNDS = {"mlp": 15}
"""How often each side of a case is measured, after one time that is dropped: 3 times, but more where that is cheap."""


def main() -> None:
    """Measure and write results/growth.json."""
    chosen = options()
    rows = [
        row
        for (case, method), opponents in OPPONENTS.items()
        if not chosen.cases or case in chosen.cases
        for row in compared(case, method, opponents if chosen.peer_python else (), chosen)
    ]
    if not chosen.cases:
        write("growth", rows, "growth_peers.txt")


def options() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer-python",
        default=os.environ.get("MERISTEM_GROWTH_PEER_PYTHON"),
        help="interpreter of an environment made from benchmarks/growth_peers.txt; "
        "default: $MERISTEM_GROWTH_PEER_PYTHON",
    )
    parser.add_argument("--cases", nargs="*", help="only these cases; nothing is written")
    return parser.parse_args()


def compared(case: str, method: str, opponents: tuple[str, ...], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """One of our methods, and beside every opponent that there is: medians and the ratios of neighbouring turns."""
    ours = Worker(sys.executable, "growth_ours", "benchmarks.growth_worker")
    peers = {name: Worker(chosen.peer_python, "growth_peer", "benchmarks.growth_worker") for name in opponents}
    workers = {method: ours, **{f"gromo {name}": worker for name, worker in peers.items()}}
    tasks = {method: method, **{f"gromo {name}": name for name in opponents}}
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in workers}
    for turn in range(ROUNDS.get(case, 3) + 1):
        for side, worker in workers.items():
            found = worker.run(tasks[side], case)
            if turn or "error" in found:
                taken[side].append(found)
    for worker in workers.values():
        worker.close()
    rows = [
        {"case": case, "method": method, "opponent": side, **summarized({"ours": taken[method], "peer": taken[side]})}
        for side in workers
        if side != method
    ] or [{"case": case, "method": method, **summarized({"ours": taken[method]})}]
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


if __name__ == "__main__":
    main()
