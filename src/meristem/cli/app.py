"""The commands and their options. What a command needs is imported when it runs, so that help comes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.errors import explained

app = typer.Typer(
    help="Grow and prune PyTorch models while they train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[Path, typer.Option(help="Folder with .npz files or with the folders that torchvision writes.")]


@app.command()
@explained
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs and of the report.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every net.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Length of every run.")] = 20,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
) -> None:
    """Train small, grown, pruned and large nets on real handwritten digits, and write a report.

    What a former demo in the same folder has finished is not run again.
    """
    from meristem.cli.demo import run_demo

    run_demo(out, seeds, epochs, processes)


@app.command()
@explained
def inspect(
    model: Annotated[str, typer.Argument(help="Import path of a model or of what builds it: module:name.")],
    shape: Annotated[
        list[str], typer.Option(help="Shape of an input, as 1,3,224,224 or NAME=1,16; once for every input.")
    ],
    kwargs: Annotated[str, typer.Option(help="JSON object with the arguments of what builds the model.")] = "{}",
    dtype: Annotated[str, typer.Option(help="Type of the inputs: float32, int64, ...")] = "float32",
    high: Annotated[int, typer.Option(min=1, help="Integer inputs are drawn from 0 to HIGH - 1.")] = 100,
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("runs/inspect.html"),
) -> None:
    """Show what can be grown and pruned in a model, and why the rest cannot; write the picture.

    For example: meristem inspect torchvision.models:resnet18 --shape 1,3,224,224
    """
    from meristem.cli.inspect import run_inspect

    run_inspect(model, shape, kwargs, dtype, high, picture)


@app.command()
@explained
def methods(
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown page there instead of printing.")] = None,
) -> None:
    """Show which growth method is defined for which kind of axis, where it preserves the function, and why not."""
    from meristem.cli.methods import run_methods

    run_methods(markdown)


@app.command()
@explained
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; what it leaves out has its default.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration in full, and stop.")
    ] = False,
    data_dir: DataDir = Path("data"),
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/NAME.")] = None,
) -> None:
    """Train one net that grows and is pruned as a configuration file says.

    To begin: meristem train --print-config > config.yaml
    """
    from meristem.cli.train import print_configuration, run_train

    if print_config:
        print_configuration(config)
    else:
        run_train(config, data_dir, out)
