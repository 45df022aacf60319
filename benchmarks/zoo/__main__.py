"""`python -m benchmarks.zoo`: how many architectures of the zoo each side prunes correctly.

Every model is pruned by half wherever that side thinks it can be, and has to answer like the original whose dropped
entries are zero, in float64. Some would rightly differ (a softmax over units that went, say): these have to run.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import torch
from rich.progress import track

import meristem
from benchmarks.pair import Worker, write
from benchmarks.zoo.judge import subject
from meristem.axes.map import Coupling
from tests.zoo.models import ROWS
from tests.zoo.row import Row

DIFFERS = frozenset({Coupling.REDUCED, Coupling.SOFTMAX, Coupling.STANDARDIZED, Coupling.SCALED})
"""Couplings under which removing a unit rightly differs from silencing it."""


def main() -> None:
    """Judge every model under every side, and write the results."""
    chosen = options()
    torch.set_num_threads(1)
    pythons = {"ours": sys.executable}
    if chosen.peer_python:
        pythons |= {"peer": chosen.peer_python, "hinted": chosen.peer_python}
    sides = {side: Worker(python, f"zoo.{side}", "benchmarks.zoo.worker") for side, python in pythons.items()}
    found = []
    for row in track([row for row in ROWS if not chosen.models or row.name in chosen.models], "models"):
        comparable = compared(row)
        if comparable is not None:
            request = "compare" if comparable else "run"
            answers = {side: told(worker.run(request, row.name, chosen.patience)) for side, worker in sides.items()}
            found.append({"model": row.name, "compared": comparable, **answers})
    for worker in sides.values():
        worker.close()
    if not chosen.models:
        write("zoo_pruning", {"models": found, "patience_seconds": chosen.patience})
    for side in sides:
        print(side, sum(row[side]["verdict"] in ("right", "runs") for row in found), "of", len(found))


def compared(row: Row) -> bool | None:
    """Whether a pruned model must answer like the silenced original; None if nothing in it can be pruned."""
    args, kwargs = row.example()
    editable = meristem.trace(subject(row), args, kwargs).editable
    return not any(axis.couplings & DIFFERS for axis in editable) if editable else None


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with a verdict, errors too."""
    return answer if "verdict" in answer else {"verdict": f"failed: {answer['error']}"}


def options() -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=os.environ.get("MERISTEM_PEER_PYTHON"), help="benchmarks/peers.txt")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds after which a side has failed")
    parser.add_argument("--models", nargs="*", help="only these models; nothing is written then")
    return parser.parse_args()


if __name__ == "__main__":
    main()
