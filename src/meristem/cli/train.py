"""`meristem train`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meristem.errors import ConfigError
from meristem.report.numbers import with_prefix
from meristem.train.config import TrainConfig, read_config, to_yaml
from meristem.train.data import load
from meristem.train.experiment import carry_out


def print_configuration(path: Path | None) -> None:
    """Prints the default configuration, or that of a file with all its defaults filled in."""
    typer.echo(to_yaml(TrainConfig() if path is None else read_config(path)), nl=False)


def run_train(path: Path | None, data_dir: Path, out: Path | None) -> None:
    """Trains as a file says, and prints the result."""
    if path is None:
        raise ConfigError("which configuration? 'meristem train --print-config > config.yaml' writes one to begin with")
    config = read_config(path)
    data = load(config.data, data_dir)
    folder = out or Path("runs") / config.name
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(f"{config.name} on {data.name}", total=None)
        run = carry_out(config, data, folder, lambda done, of: bars.update(bar, completed=done, total=of))
    last = run.evaluations[-1]
    births = sum(sum(change.births.values()) for change in run.changes)
    deaths = sum(sum(change.deaths.values()) for change in run.changes)
    console.print(
        f"test accuracy {run.value('final accuracy'):.2%}, {with_prefix(last.parameters)} parameters, "
        f"{births} births and {deaths} deaths in {len(run.changes)} edits, "
        f"{with_prefix(last.flops, 'FLOP')}, {last.seconds:.1f} s"
    )
    console.print(f"metrics, history and result: {folder}")
