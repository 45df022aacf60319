"""`meristem demo`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from meristem.errors import ConfigError

try:
    from meristem.report.study import write_report
    from meristem.report.table import summary_table
    from meristem.study import Protocol, summarize
    from meristem.study.demo import demo_protocol
    from meristem.study.execute import execute
except ModuleNotFoundError as error:
    raise ConfigError(f"the demo needs {error.name}: pip install 'meristem[demo]'") from error


def run_demo(out: Path, seeds: int, epochs: int, processes: int) -> None:
    """Runs the demo, prints its table and writes its report."""
    protocol = demo_protocol(seeds, epochs)
    console = Console()
    results = _execute(protocol, out, processes, console)
    console.print(summary_table(protocol.title, [summarize(name, runs) for name, runs in results.items()]))
    write_report(out / "report.html", protocol, results)
    console.print(f"report: {out / 'report.html'}")


def _execute(protocol: Protocol, out: Path, processes: int, console: Console):
    """All runs, with a progress bar for each arm."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shares: dict[str, dict[int, float]] = {arm.name: {} for arm in protocol.arms}
    with Progress(*columns, console=console) as progress:
        bars = {arm.name: progress.add_task(f"{arm.name:7}", total=len(protocol.seeds)) for arm in protocol.arms}

        def report(arm: str, seed: int, done: int, total: int) -> None:
            shares[arm][seed] = done / total
            progress.update(bars[arm], completed=sum(shares[arm].values()))

        return execute(protocol, out, processes=processes, report=report)
