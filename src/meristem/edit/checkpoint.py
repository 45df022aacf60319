"""`save` and `load`: an edited model and its optimizers in one file, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes import AxisMap, trace
from meristem.edit import storage
from meristem.edit.checks import check_model, tensors_of
from meristem.edit.edit import Edit
from meristem.edit.history import replaying
from meristem.edit.journal import Journal, Overwrite, Step
from meristem.edit.outline import check_widths, most, outlined
from meristem.edit.portable import OptimizerRecord, check_fit, dumped, restoring, tensors_named
from meristem.edit.record import parsed, spans
from meristem.edit.stages import has_depth, replayed
from meristem.errors import CheckpointError, EditError, TraceError


class Document(BaseModel):
    """What a checkpoint says besides its tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    model: str
    history: list[dict[str, Any]]
    optimizers: list[OptimizerRecord]
    extra: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    axes: AxisMap,
    optimizers: Optimizer | Sequence[Optimizer] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, its history of edits and its optimizers to one safetensors file, atomically.

    Args:
        path: the file; a former one is replaced only once the new one is complete on the disk.
        axes: the map of the model as it is now.
        optimizers: the optimizer or optimizers to save.
        extra: anything JSON-able that belongs to the run, such as `plasticity.state_dict()`; `extra_of` reads it.

    Raises:
        StaleMapError: the map is not that of the model as it is now.
        CheckpointError: the file cannot be written, something would need pickle, or the model came without its map.
    """
    if not isinstance(axes, AxisMap):
        raise CheckpointError(
            f"save(path, axes) expects the map of the model, got {type(axes).__name__}; give `plasticity.axes`, or "
            "what `meristem.trace(model, example)` or `commit.axes` returned"
        )
    tensors = check_model(axes, axes.layouts.values())
    contents = {f"model.{name}": tensors[name] for name in _saved(axes)}

    def store(tensor: Tensor) -> str:
        key = f"optimizer.{len(contents)}"
        contents[key] = tensor
        return key

    names = {id(tensor): name for name, tensor in reversed(tensors.items())}
    given = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers)
    document = Document(
        format=1,
        model=_kind(axes.model),
        history=[dict(record) for record in axes.history],
        optimizers=[dumped(optimizer, names, store) for optimizer in given],
        extra=dict(extra or {}),
    )
    try:
        text = json.dumps(document.model_dump())
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"`extra` must consist of JSON values: {error}") from error
    storage.write(path, contents, text)


def extra_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was given to `save` as `extra`. Raises `CheckpointError` if the file is no sound checkpoint."""
    return _read(path)[1].extra


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    optimizers: Optimizer | Sequence[Optimizer] = (),
) -> AxisMap:
    """Bring a freshly built model, and freshly built optimizers, to the state of a checkpoint.

    The history is replayed on the model, then every tensor and all optimizer state is copied in, as one transaction.

    Args:
        path: a file that `save` wrote.
        model: the model as its constructor makes it, before any edit.
        args, kwargs: example inputs, as for `trace`.
        optimizers: the optimizers, in the order in which they were saved, built on `model`; or none, to leave them out.

    Returns:
        The map of the edited model, with its history.

    Raises:
        CheckpointError: the file is missing, truncated, corrupted, hostile or of another model; nothing was loaded.
        TraceError: the model could not be run on the example.
    """
    tensors, document = _read(path)
    axes = trace(model, args, kwargs)
    given = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers)
    try:
        deep = has_depth(document.history)
    except EditError as error:
        raise CheckpointError(_foreign(path, document, model, error)) from error
    if deep:
        return _deep(path, tensors, document, axes, given)
    try:
        _check_optimizers(document, given, model)
        after = {name: size for name, (_, size) in spans(parsed(document.history)).items()}
        _check_tensors(tensors, axes, after)
        check_widths(parsed(document.history), axes, most(axes, _bytes(tensors)))
        edit = replaying(document.history, axes, given)
    except (EditError, CheckpointError) as error:
        raise CheckpointError(_foreign(path, document, model, error)) from error

    def contents() -> Iterable[Step]:
        return _contents(tensors, document, axes, given)

    return replace(_applied(edit, contents), history=tuple(document.history))


def _deep(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    document: Document,
    axes: AxisMap,
    optimizers: Sequence[Optimizer],
) -> AxisMap:
    """As `load` goes on where the history edits the module tree: what the tensors must fit is found out before, on
    tensors without values; what the optimizers must, when the structure is in place, in the same transaction."""

    def contents(now: AxisMap) -> Iterable[Step]:
        _check_optimizers(document, optimizers, now.model)
        _check_tensors(tensors, now, {})
        yield from _contents(tensors, document, now, optimizers)

    def check(now: AxisMap) -> None:
        _check_tensors(tensors, now, {})

    try:
        outlined(document.history, axes, check, _bytes(tensors))
        return replayed(document.history, axes, optimizers, then=contents)
    except (EditError, CheckpointError, TraceError) as error:
        raise CheckpointError(_foreign(path, document, axes.model, error)) from error


def _contents(
    tensors: Mapping[str, Tensor], document: Document, axes: AxisMap, optimizers: Sequence[Optimizer]
) -> Iterable[Step]:
    """Steps that copy everything in."""
    own = tensors_of(axes.model)
    yield from (Overwrite.of(own[name], tensors[f"model.{name}"]) for name in _saved(axes))
    for record, optimizer in zip(document.optimizers, optimizers, strict=bool(optimizers)):
        yield from restoring(record, optimizer, tensors)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Document]:
    tensors, text = storage.read(path)
    try:
        document = Document.model_validate_json(text)
        named = {key for record in document.optimizers for key in tensors_named(record.model_dump())}
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"{path} is malformed: {error}") from error
    unknown = sorted(key for key in tensors if key.startswith("optimizer.") and key not in named)
    if unknown:
        raise CheckpointError(f"{path} is malformed: no optimizer in it refers to its tensor {unknown[0]}")
    return tensors, document


def _applied(edit: Edit, contents: Any) -> AxisMap:
    if edit.changes:
        return edit.commit(contents).axes
    with Journal() as journal:
        journal.apply(contents())
    journal.forget()
    return edit.axes


def _saved(axes: AxisMap) -> list[str]:
    """The first names of all parameters and persistent buffers."""
    transient = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in axes.model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    return [layout.name for layout in axes.layouts.values() if not transient.issuperset(layout.names)]


def _check_optimizers(document: Document, optimizers: Sequence[Optimizer], model: nn.Module) -> None:
    if optimizers and len(optimizers) != len(document.optimizers):
        raise CheckpointError(
            f"the checkpoint holds {len(document.optimizers)} optimizers, {len(optimizers)} are given"
        )
    names = {id(tensor): name for name, tensor in reversed(tensors_of(model).items())}
    for record, optimizer in zip(document.optimizers, optimizers, strict=bool(optimizers)):
        check_fit(record, optimizer, names)


def _check_tensors(tensors: Mapping[str, Tensor], axes: AxisMap, after: Mapping[str, int]) -> None:
    """Every tensor of the model as it will be after the replay is there, with its shape and dtype, and no other is."""
    sizes = [after.get(axis.name, axis.size) for axis in axes]
    own = tensors_of(axes.model)
    expected = {f"model.{name}": (axes.layouts[name].shape(sizes), own[name].dtype) for name in _saved(axes)}
    found = {key: (tuple(t.shape), t.dtype) for key, t in tensors.items() if not key.startswith("optimizer.")}
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            raise CheckpointError(
                f"the tensor {key} is {_shown(found.get(key))} in the checkpoint, "
                f"{_shown(expected.get(key))} in this model"
            )


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    """The memory of the model in a checkpoint."""
    return sum(t.numel() * t.element_size() for key, t in tensors.items() if not key.startswith("optimizer."))


def _foreign(path: str | os.PathLike[str], document: Document, model: nn.Module, error: Exception) -> str:
    """Why a checkpoint cannot be loaded into a model."""
    kind = _kind(model)
    whose = f"{path} does not belong to this model"
    return f"{whose}: {error}" if document.model == kind else f"{whose}: it is of {document.model}, not {kind}: {error}"


def _kind(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _shown(tensor: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if tensor is None else f"{tensor[1]} {tensor[0]}"
