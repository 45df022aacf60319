"""`meristem prune`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from torch import nn

import meristem
from meristem.axes import AxisMap
from meristem.cli.exported import INSTALL, export, exportable, outputs, require_exporter
from meristem.cli.given import (
    Data,
    Given,
    Inputs,
    batches_of,
    criterion_of,
    example_of,
    first_of,
    loss_of,
    moved,
    require_folder,
    require_runs,
)
from meristem.cli.own import said
from meristem.cli.target import load_model
from meristem.cli.weights import restored
from meristem.edit.duplicate import copied
from meristem.edit.preview import drift_of
from meristem.errors import ConfigError, MeristemError
from meristem.prune import Criterion
from meristem.recipes import Shrunk, shrink
from meristem.recipes.evidence import Loss, evaluating, require_graph


def run_prune(
    given: Given,
    data: Data,
    target: Mapping[str, float | None],
    criterion: str | None,
    settings: Mapping[str, Any],
    out: Path,
    onnx: bool | None,
    yes: bool,
) -> None:
    """Shows what would go, prunes, fine-tunes, and writes files that were checked to give the same outputs.

    Args:
        given, data: see there.
        target: of `shrink`: a share by its name, the others None.
        criterion: as typed, see `criterion_of`.
        settings: of `shrink`, further ones.
        out: the folder to write to.
        onnx: whether to write an ONNX file; None: if it can be.
        yes: whether to go on without asking.
    """
    console = Console(markup=False, highlight=False)
    if onnx:
        require_exporter()
    if data.epochs and data.loader is None:
        raise ConfigError("--epochs trains on what --loader gives: add --loader module:name")
    require_folder(out)
    who, batches, loss = criterion_of(criterion), batches_of(data.loader), loss_of(data)
    first = first_of(batches, data.loader)
    args, kwargs = example_of(given)
    model = moved(given.device, load_model(given.model, given.kwargs))
    pristine = _again(model, given)
    axes = restored(given.checkpoint, model, args, kwargs)
    require_runs(model, args, kwargs, given)
    if batches is None:
        _require_no_data(axes, target["tolerance"], who)
    before = None if batches is None else _loss(model, first, loss)

    def confirm(would: Shrunk) -> bool:
        console.print(would)
        return yes or typer.confirm("Prune like this?")

    finetune = _finetuning(data, batches, loss, console) if batches is not None and data.epochs else None
    found = shrink(
        model,
        axes,
        **target,
        **settings,
        batches=batches,
        loss=loss,
        criterion=who,
        finetune=finetune,
        confirm=confirm,
    )
    if not found.done:
        console.print("nothing was changed, nothing written")
        return
    console.print(found)
    if finetune is None:
        console.print("nothing was trained since: do so, or give --loader and --epochs")
    if before is not None:
        console.print(f"loss on the first batch: {before:.4g} before, {_loss(model, first, loss):.4g} now")
    _write(out, found, pristine, (args, kwargs), onnx, console)


def _require_no_data(axes: AxisMap, tolerance: float | None, criterion: Criterion | None) -> None:
    """Raise `ConfigError` if something looks at data, and no loader was given."""
    asker = None if tolerance is None else "--tolerance"
    if asker is None and criterion is not None:
        looked = (criterion.needs(axes, axis) for axis in axes.editable if criterion.undefined(axes, axis) is None)
        asker = f"--criterion {type(criterion).__name__}" if criterion.requires_closure or any(looked) else None
    if asker is not None:
        raise ConfigError(f"{asker} looks at data: add --loader module:name, a DataLoader or what builds one")


def _again(model: nn.Module, given: Given) -> nn.Module:
    """The model as it was built: a copy; what cannot be copied is built once more."""
    try:
        return copied(model)
    except Exception as error:  # whatever a module of the user's own raises
        found = moved(given.device, load_model(given.model, given.kwargs))
        if found is model:
            raise ConfigError(f"{given.model} cannot be copied ({said(error)}): give what builds it") from error
        return found


def _write(out: Path, found: Shrunk, pristine: nn.Module, inputs: Inputs, onnx: bool | None, console: Console) -> None:
    args, kwargs = inputs
    out.mkdir(parents=True, exist_ok=True)
    path, model = out / "model.safetensors", found.axes.model
    meristem.save(path, found.axes)
    meristem.load(path, pristine, args, kwargs)
    own, again, theirs = (outputs(each, args, kwargs) for each in (model, model, pristine))
    if drift_of(own, again) > 1e-5:
        console.print(f"{path}: weights and history; not compared, since the model's outputs are random in eval mode")
    else:
        drift = drift_of(own, theirs)
        if not drift <= 1e-5:
            raise MeristemError(
                f"{path} was read back and gives other outputs: they differ by {drift:.2g} of the largest"
            )
        console.print(f"{path}: weights and history; read back, outputs differ by {drift:.1g}")
    console.print(f"to use it: build the model as before, then meristem.load({str(path)!r}, model, example)")
    if onnx is False:
        return
    if not exportable():
        console.print(f"no ONNX file, since onnx and onnxscript are not installed: {INSTALL}")
        return
    path = out / "model.onnx"
    console.print(f"{path}: {export(model, args, kwargs, path)}")


def _loss(model: nn.Module, batch: Any, loss: Loss) -> float:
    with evaluating(model), torch.no_grad():
        return float(loss(model, batch))


def _finetuning(data: Data, batches: Iterable[Any], loss: Loss, console: Console) -> Callable[[nn.Module], None]:
    """Trains for some epochs with AdamW, whose learning rate falls along a cosine."""

    def finetune(model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=data.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, data.epochs)
        model.train()
        for epoch in range(1, data.epochs + 1):
            losses = []
            for batch in batches:
                found = loss(model, batch)
                require_graph(found)
                found.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(found.item())
            if not losses:
                raise ConfigError(f"{data.loader} gave no batches in epoch {epoch}; it must be iterable anew")
            scheduler.step()
            console.print(f"epoch {epoch} of {data.epochs}: loss {sum(losses) / len(losses):.4g}")

    return finetune
