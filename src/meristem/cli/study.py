"""`meristem study`."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from meristem.errors import ConfigError
from meristem.train.imported import resolve

try:
    from meristem.report.findings import findings_table
    from meristem.report.study import write_report
    from meristem.report.table import summary_table
    from meristem.study import Plan, Study
    from meristem.study.catalogue import find, names
    from meristem.study.execute import Outcome, collect, execute, require_complete
    from meristem.study.summary import summarize
    from meristem.train.data import load
    from meristem.train.experiment import finished_run
except ModuleNotFoundError as error:
    raise ConfigError(f"studies need {error.name}: pip install 'meristem[demo]'") from error


def list_studies() -> None:
    """Prints the studies and their questions."""
    table = Table()
    for head in ("study", "question", "scales"):
        table.add_column(head, overflow="fold")
    for study in map(find, names()):
        table.add_row(Text(study.name, "bold"), Text(study.question), Text(", ".join(study.scales)))
    Console().print(table)


def run_study(
    name: str | None,
    scale: str,
    seeds: int | None,
    data_dir: Path,
    jobs: int,
    out: Path | None,
    report_only: bool,
    submission: Path | None = None,
) -> None:
    """Runs what is missing of a study (or nothing, for the report only), and writes its report.

    With a submission its arms are run instead of those of the study.
    """
    if name is None:
        raise ConfigError(f"which study? One of {', '.join(names())}; 'meristem study --list' says what they ask")
    study = find(name) if ":" not in name else _own(name)
    plan = study.plan(scale, seeds, submission)
    folder = out or Path("runs") / study.name / (scale if submission is None else f"{scale}-{submission.stem}")
    if report_only:
        _conclude(plan, folder, collect(plan, folder))
    else:
        carry_out(plan, folder, data_dir, jobs)


def carry_out(plan: Plan, folder: Path, data_dir: Path, jobs: int) -> None:
    """Runs what is missing of a plan, prints its tables and how long it took, writes `results.json` and `report.html`.

    Raises:
        DataError: data that are needed are not there; nothing was run.
        MeristemError: after all that, if runs failed.
    """
    start = time.perf_counter()
    unfinished = [task.config for task in plan.tasks(folder) if finished_run(task.config, task.folder) is None]
    for data in {config.data for config in unfinished if config.data is not None}:
        load(data, data_dir)
    outcome = _execute(plan, folder, data_dir, jobs)
    if not any(outcome.runs.values()):
        require_complete(outcome)
    _conclude(plan, folder, outcome)
    Console().print(f"{time.perf_counter() - start:.0f} seconds in total")
    require_complete(outcome)


def _own(path: str) -> Study:
    """The study at an import path."""
    found = resolve(path)
    if not isinstance(found, Study):
        raise ConfigError(f"{path} is a {type(found).__name__}; expected a meristem.study.Study")
    return found


def _conclude(plan: Plan, folder: Path, outcome: Outcome) -> None:
    summary = summarize(plan, outcome)
    if not summary.arms:
        raise ConfigError(f"{folder} holds no finished run of {plan.study.name}; run it without --report-only first")
    console = Console()
    console.print(summary_table(summary, console.width))
    if summary.findings:
        console.print(findings_table(summary))
    if summary.missing:
        console.print(f"{summary.missing} runs are missing; run it again to go on")
    summary.write(folder / "results.json")
    write_report(folder / "report.html", summary)
    console.print(f"report: {folder / 'report.html'}")


def _execute(plan: Plan, folder: Path, data_dir: Path, jobs: int) -> Outcome:
    """All runs, with a bar for each arm that is not finished and one for all."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shares: dict[str, dict[int, float]] = {arm.name: {} for arm in plan.arms}
    total = sum(plan.seeds.values())
    with Progress(*columns, console=Console()) as progress:
        whole = progress.add_task(f"{total} runs", total=total)
        bars = {arm.name: progress.add_task(arm.name, total=plan.seeds[arm.name], visible=False) for arm in plan.arms}

        def report(arm: str, seed: int, done: int, of: int) -> None:
            shares[arm][seed] = done / max(of, 1)
            finished = sum(shares[arm].values())
            progress.update(bars[arm], completed=finished, visible=finished < plan.seeds[arm])
            progress.update(whole, completed=sum(sum(each.values()) for each in shares.values()))

        return execute(plan, folder, data_dir, jobs, report)
