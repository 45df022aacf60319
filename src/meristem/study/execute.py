"""Runs all tasks of a protocol, several processes at a time, one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from meristem.study.protocol import Protocol, Task
from meristem.train.data import DataSet, load
from meristem.train.loop import finished_run, run_training
from meristem.train.record import Run

Report = Callable[[str, int, int, int], None]
"""Called with the arm, the seed, the steps done and all steps of that run."""

_reports: Any = None
"""The queue on which this worker process reports its progress."""


def execute(
    protocol: Protocol,
    folder: Path,
    data_dir: Path | str = "data",
    processes: int = 2,
    report: Report = lambda arm, seed, done, total: None,
) -> dict[str, list[Run]]:
    """All runs of a protocol, by arm; what its folder already holds is not run again.

    Args:
        protocol: what to do.
        folder: below it every run has a folder.
        data_dir: where data sets are read from.
        processes: how many runs at a time, one thread each.
        report: called now and then, in this process, with the progress of a run.

    Raises:
        MeristemError: as `run_training`; runs that have not begun are not started.
    """
    tasks = protocol.tasks(folder)
    runs: dict[Path, Run] = {}
    for task in tasks:
        run = finished_run(task.config, task.folder)
        if run is not None:
            runs[task.folder] = run
            report(task.arm, task.config.seed, 1, 1)
    missing = [task for task in tasks if task.folder not in runs]
    for name in {task.config.data for task in missing}:
        load(name, data_dir)  # a missing data set is an error here and now, not in a worker
    if missing:
        runs |= _run_all(missing, data_dir, processes, report)
    return {arm.name: [runs[task.folder] for task in tasks if task.arm == arm.name] for arm in protocol.arms}


def _run_all(tasks: list[Task], data_dir: Path | str, processes: int, report: Report) -> dict[Path, Run]:
    """Runs tasks in worker processes."""
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(processes, context, _begin, (reports,)) as pool:
        futures = [pool.submit(_work, task, data_dir) for task in tasks]
        try:
            for message in _messages(reports, futures):
                report(*message)
            return {task.folder: future.result() for task, future in zip(tasks, futures, strict=True)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _messages(reports: Any, futures: Sequence[Future[Run]]) -> Iterator[tuple[str, int, int, int]]:
    """Progress as it comes in, until all runs have ended or one has failed."""
    while True:
        done, pending = wait(futures, timeout=0)
        try:
            yield reports.get(timeout=0.1)
        except Empty:
            if not pending or any(future.exception() for future in done):
                return


def _begin(reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)


_loaded: dict[str, DataSet] = {}


def _work(task: Task, data_dir: Path | str) -> Run:
    """One run, in a worker process."""
    name, seed = task.config.data, task.config.seed
    if name not in _loaded:
        _loaded[name] = load(name, data_dir)

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            _reports.put((task.arm, seed, done, total))

    return run_training(task.config, _loaded[name], task.folder, progress)
