"""`python -m benchmarks.growth_quality --data-dir DIR`: runs what is missing, `--summary` writes what there is.

Every run is one JSON file below `--runs`; what is finished is not run again, what was killed or has failed is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.growth_quality.execute import execute
from benchmarks.growth_quality.settings import SCALES
from benchmarks.growth_quality.summary import write_summary
from benchmarks.growth_quality.tasks import all_tasks
from meristem.train.data import load


def main() -> None:
    """Run what is missing, or summarize."""
    chosen = options()
    tasks = [task for task in all_tasks(chosen.scale) if chosen.only in f"{task.case}, {task.arm}, seed {task.seed}"]
    if chosen.summary:
        write_summary(chosen.scale, tasks, chosen.runs)
        return
    missing = [task for task in tasks if task.result(chosen.runs) is None]
    print(f"{len(tasks) - len(missing)} of {len(tasks)} runs are there", flush=True)
    for name in {task.data for task in missing}:
        load(name, chosen.data_dir)  # a missing data set is an error here and now, not in a worker
    failed = execute(missing, chosen.runs, chosen.data_dir, chosen.jobs)
    if failed:
        print(f"{failed} runs failed; the summary says which, and next time they are tried again", file=sys.stderr)


def options() -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with the data sets (default: data)")
    parser.add_argument("--runs", type=Path, default=Path("runs/growth_quality"), help="folder of the results")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each (default: 2)")
    parser.add_argument("--only", default="", help="only runs whose description contains this, e.g. 'vgg, no norm'")
    parser.add_argument("--summary", action="store_true", help="write benchmarks/results/growth_quality.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
