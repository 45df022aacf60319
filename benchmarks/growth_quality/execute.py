"""Runs tasks in several processes, one thread each."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import torch

from benchmarks.growth_quality.nets import prepared
from benchmarks.growth_quality.run import run
from benchmarks.growth_quality.settings import SCALES
from benchmarks.growth_quality.tasks import Task
from meristem.train.data import DataSet, load
from meristem.train.record import write_json


def execute(tasks: list[Task], runs: Path, data_dir: Path, jobs: int) -> int:
    """Run tasks in processes of their own.

    Returns:
        how many failed.
    """
    failed = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(work, task, runs, data_dir): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            task = futures[future]
            future.result()
            failure = task.failure(runs)
            failed += failure is not None
            outcome = "done" if failure is None else f"failed: {failure}"
            print(f"{done}/{len(tasks)} {task.case}, {task.arm}, seed {task.seed}: {outcome}", flush=True)
    return failed


def work(task: Task, runs: Path, data_dir: Path) -> None:
    """One run, in a process of its own, into its file; a run that fails leaves its error there."""
    data = images(task.data, task.scale, data_dir)
    try:
        result = run(task, data)
    except Exception as error:
        result = {"config": task.config, "failed": f"{type(error).__name__}: {error}"}
    path = task.path(runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)


@cache
def images(name: str, scale: str, data_dir: Path) -> DataSet:
    """A data set as a scale wants it, read once in each process."""
    return prepared(load(name, data_dir), SCALES[scale])
