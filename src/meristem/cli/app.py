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
    places: Annotated[
        bool, typer.Option("--places", help="Also where layers and branches may be inserted and removed.")
    ] = False,
) -> None:
    """Show what can be grown and pruned in a model, and why the rest cannot; write the picture.

    For example: meristem inspect torchvision.models:resnet18 --shape 1,3,224,224
    """
    from meristem.cli.inspect import run_inspect

    run_inspect(model, shape, kwargs, dtype, high, picture, places)


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
def prune(
    checkpoint: Annotated[Path, typer.Argument(help="State dict (.safetensors, .pt), or what meristem.save wrote.")],
    model: Annotated[str, typer.Option(help="Import path of what builds the model: module:name.")],
    kwargs: Annotated[str, typer.Option(help="JSON object with the arguments of what builds the model.")] = "{}",
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape of an input, as 1,3,224,224 or NAME=1,16; once for every input.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type of the inputs: float32, int64, ...")] = "float32",
    high: Annotated[int, typer.Option(min=1, help="Integer inputs are drawn from 0 to HIGH - 1.")] = 100,
    example: Annotated[str | None, typer.Option(help="Import path of an example input, instead of --shape.")] = None,
    flops: Annotated[float | None, typer.Option(help="Share of the FLOPs that may be left, such as 0.5.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Share of the parameters, instead.")] = None,
    memory: Annotated[float | None, typer.Option(help="Share of the memory of the weights, instead.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the measured time of a pass, instead.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Share by which the loss may rise, such as 0.05, instead; needs --loader.")
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            help="Who goes, as Magnitude, or 'Magnitude: {p: 1}'; default: Taylor with data, GroupNorm without."
        ),
    ] = None,
    loader: Annotated[str | None, typer.Option(help="Import path of a DataLoader, or of what builds one.")] = None,
    loss: Annotated[str | None, typer.Option(help="Import path of f(model, batch); default: cross entropy.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches that are looked at before units are scored.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="In how many steps the model is shrunk.")] = 1,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning after every round.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, at first; it falls along a cosine.")] = 1e-4,
    keep: Annotated[list[str] | None, typer.Option(help="Pattern of axes that lose nothing; may be repeated.")] = None,
    floor: Annotated[float, typer.Option(min=0, max=1, help="Share of its units that every axis keeps.")] = 0.1,
    multiple: Annotated[
        int | None, typer.Option(min=1, help="New sizes are multiples of this; default: 8 for large axes.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, and is to be fast.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of model.safetensors and model.onnx.")] = Path("runs/prune"),
    onnx: Annotated[bool | None, typer.Option(help="Default: if what it needs is installed.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Show what would go, and do not ask.")] = False,
) -> None:
    """Make a trained model smaller and faster: show what would go, prune, fine-tune, write safetensors and ONNX.

    For example: meristem prune weights.pt --model my_nets:build --shape 1,3,32,32 --flops 0.5 --loader my_data:loader
    """
    from meristem.cli.given import Data, Given
    from meristem.cli.prune import run_prune

    target = {"flops": flops, "parameters": parameters, "memory": memory, "latency": latency, "tolerance": tolerance}
    settings = {"steps": steps, "rounds": rounds, "keep": tuple(keep or ()), "floor": floor, "multiple": multiple}
    given = Given(checkpoint, model, kwargs, shape or [], dtype, high, example, device)
    data = Data(loader, loss, epochs, learning_rate)
    run_prune(given, data, target, criterion, settings, out, onnx, yes)


@app.command()
@explained
def study(
    name: Annotated[
        str | None, typer.Argument(help="Which study; --list names them. Or the import path of yours: module:name.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the studies, and stop.")] = False,
    scale: Annotated[
        str, typer.Option(help="smoke: seconds; cpu: about 45 minutes on two cores; full: as the paper.")
    ] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of every arm; default: those of the scale.")] = None,
    data_dir: DataDir = Path("data"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default: runs/NAME/SCALE.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing, write the report anew.")] = False,
    submission: Annotated[
        Path | None, typer.Option(help="A file with a method of your own, which runs instead of the study's arms.")
    ] = None,
) -> None:
    """Run a study over its seeds, test its claims, and write report.html and results.json.

    What is finished is not run again; what was killed begins afresh when the command is given again.
    """
    from meristem.cli.study import list_studies, run_study

    if list_:
        list_studies()
    else:
        run_study(name, scale, seeds, data_dir, jobs, out, report_only, submission)


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
