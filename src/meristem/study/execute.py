"""Runs what is missing of a study, several processes at a time, one thread each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from meristem.errors import MeristemError
from meristem.study.environment import Sitting, machine
from meristem.study.pool import Failed, Pool, Stepped
from meristem.study.study import Plan, Task
from meristem.train.experiment import finished_run
from meristem.train.record import Run, write_json

Report = Callable[[str, int, int, int], None]
"""Called with the arm, the seed, the steps done and all steps of that run."""

SITTINGS = "sittings.json"
"""In the folder of a study."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that ended with an error; it is tried again next time."""

    arm: str
    seed: int
    error: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is of a study.

    Attributes:
        runs: the finished runs by arm, in the order of their seeds.
        failures: what ended with an error.
        missing: how many runs were neither finished nor failed.
        sittings: when they were made; of what was killed nothing is known.
    """

    runs: dict[str, list[Run]]
    failures: tuple[Failure, ...] = ()
    missing: int = 0
    sittings: tuple[Sitting, ...] = ()


def collect(plan: Plan, folder: Path) -> Outcome:
    """What a folder already holds of a plan; nothing is run.

    Raises:
        ConfigError: it holds a run with other settings.
    """
    runs: dict[str, list[Run]] = {arm.name: [] for arm in plan.arms}
    missing = 0
    for task in plan.tasks(folder):
        run = finished_run(task.config, task.folder)
        if run is None:
            missing += 1
        else:
            runs[task.arm].append(run)
    return Outcome(runs, (), missing, _sittings(folder))


def execute(
    plan: Plan,
    folder: Path,
    data_dir: Path | str = "data",
    jobs: int = 2,
    report: Report = lambda arm, seed, done, total: None,
) -> Outcome:
    """All runs of a plan; what its folder already holds is not run again, what was killed begins afresh.

    A run that fails does not stop the others.

    Args:
        plan: what to do.
        folder: below it every run has a folder.
        data_dir: where data sets are read from.
        jobs: how many runs at a time, each in a process with one thread.
        report: called now and then, in this process, with the progress of a run.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    tasks = plan.tasks(folder)
    missing: list[Task] = []
    for task in tasks:
        if finished_run(task.config, task.folder) is None:
            missing.append(task)
        else:
            report(task.arm, task.config.seed, 1, 1)
    start = time.perf_counter()
    try:
        failures = _run_all(missing, data_dir, jobs, report) if missing else []
    finally:
        made = sum(finished_run(task.config, task.folder) is not None for task in missing)
        if made:
            sitting = Sitting(time.perf_counter() - start, jobs, made, machine())
            write_json(folder / SITTINGS, [asdict(each) for each in (*_sittings(folder), sitting)])
    return Outcome(collect(plan, folder).runs, tuple(failures), sittings=_sittings(folder))


def _sittings(folder: Path) -> tuple[Sitting, ...]:
    path = folder / SITTINGS
    return tuple(Sitting(**each) for each in json.loads(path.read_text())) if path.is_file() else ()


def _run_all(tasks: Sequence[Task], data_dir: Path | str, jobs: int, report: Report) -> list[Failure]:
    failures: list[Failure] = []
    with Pool(min(jobs, len(tasks)), data_dir) as pool:
        for task, message in pool.run(tasks):
            seed = task.config.seed
            if isinstance(message, Stepped):
                report(task.arm, seed, message.done, message.total)
            elif isinstance(message, Failed):
                failures.append(Failure(task.arm, seed, message.error))
            else:
                report(task.arm, seed, 1, 1)
    return failures


def require_complete(outcome: Outcome) -> None:
    """Raises `MeristemError` with the first failures, if there are any."""
    if outcome.failures:
        lines = [f"{failure.arm}, seed {failure.seed}: {failure.error}" for failure in outcome.failures[:5]]
        raise MeristemError(
            f"{len(outcome.failures)} runs failed; they are tried again next time:\n  " + "\n  ".join(lines)
        )
