"""Judge every axis of every model: `python -m tests.zoo.every_axis [--only NAME]` prints what fails.

The tests judge all axes in one edit and a few on their own; this takes the hours that judging each on its own takes.
"""

from __future__ import annotations

import argparse
import logging
import time

import torch

from .judge import attempt, growth_check, half, permutation_check, prune_check, subject, together
from .models import ROWS

CHECKS = {
    "prune to half": prune_check(half),
    "prune to one unit": prune_check(lambda size: 1),
    "grow by 1": growth_check(lambda size: 1, 1e-9),
    "grow by 3": growth_check(lambda size: 3, 1e-9),
    "reorder": permutation_check,
}


def main() -> None:
    """Print one line per model, and one per failing axis and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--together", action="store_true", help="all axes in one edit, halving to name the culprit")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for row in ROWS:
        if options.only not in row.name:
            continue
        start = time.perf_counter()
        try:
            traced = subject(row)
        except Exception as error:
            print(f"{row.name}: not traced: {type(error).__name__}: {error}", flush=True)
            continue
        seconds = time.perf_counter() - start
        axes, problems = traced.axes.editable, {}
        for what, check in CHECKS.items():
            if options.together:
                found = together(check, traced)
            else:
                found = {axis.name: attempt(check, traced, [axis]) for axis in axes}
            problems |= {f"{what}: {name}": problem for name, problem in found.items() if problem}
        print(f"{row.name}: {len(axes)} editable, traced in {seconds:.2f} s, {len(problems)} problems", flush=True)
        for name, problem in problems.items():
            print(f"    {name}: {problem}", flush=True)


if __name__ == "__main__":
    main()
