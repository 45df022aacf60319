"""An optimizer's groups and state as JSON and tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.optim import Optimizer

from meristem.edit.journal import SetContents, Step
from meristem.edit.optimizer import POWERS, state_recipe
from meristem.errors import CheckpointError


class GroupRecord(BaseModel):
    """One parameter group: the names of its parameters (None for one that is not the model's) and its options."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: list[str | None]
    options: dict[str, Any]


class OptimizerRecord(BaseModel):
    """One optimizer: its class, its groups, and the state of parameters given by group and position."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    groups: list[GroupRecord]
    state: list[tuple[int, int, dict[str, Any]]]


FOLLOWING = frozenset(
    (*POWERS, "exp_avg", "exp_inf", "grad_avg", "momentum_buffer", "prev"),
).difference(("d", "old_stps"))
"""Names under which optimizers keep what has the shape of its parameter, or of a part of its dimensions."""


def kind_of(optimizer: Optimizer) -> str:
    """The name of an optimizer's class."""
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def dumped(optimizer: Optimizer, names: Mapping[int, str], store: Callable[[Tensor], str]) -> OptimizerRecord:
    """An optimizer as a record.

    Args:
        optimizer: any optimizer whose options and state consist of tensors, numbers, strings and containers of them.
        names: the name of each parameter, by identity.
        store: puts a tensor away and returns the key under which it is found again.

    Raises:
        CheckpointError: something cannot be written without pickle.
    """
    groups = [
        GroupRecord(
            parameters=[names.get(id(p)) for p in group["params"]],
            options={key: _encoded(value, store, key) for key, value in group.items() if key != "params"},
        )
        for group in optimizer.param_groups
    ]
    state = [
        (i, j, {str(key): _encoded(value, store, key) for key, value in optimizer.state[p].items()})
        for i, group in enumerate(optimizer.param_groups)
        for j, p in enumerate(group["params"])
        if p in optimizer.state
    ]
    return OptimizerRecord(kind=kind_of(optimizer), groups=groups, state=state)


def check_fit(record: OptimizerRecord, optimizer: Optimizer, names: Mapping[int, str]) -> None:
    """Raise `CheckpointError` unless an optimizer has the class, the groups and the kinds of options of a record."""
    if record.kind != kind_of(optimizer):
        raise CheckpointError(f"the checkpoint holds a {record.kind}, the optimizer given is a {kind_of(optimizer)}")
    groups = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    saved = [group.parameters for group in record.groups]
    if saved != groups:
        raise CheckpointError(
            f"the optimizer in the checkpoint has {_counts(saved)} parameters in its groups, the one given "
            f"{_counts(groups)}, or they are others, or in another order; build it as it was built for training"
        )
    for group, options in zip(optimizer.param_groups, (g.options for g in record.groups), strict=True):
        for key, value in options.items():
            if key == "params" or (key in group and not _alike(group[key], value)):
                raise CheckpointError(f"the option {key!r} is {value!r} in the checkpoint, {group.get(key)!r} here")
    for i, j, _ in record.state:
        if not (0 <= i < len(groups) and 0 <= j < len(groups[i])):
            raise CheckpointError(f"the checkpoint has state for parameter {j} of group {i}, which does not exist")


def tensors_named(value: Any) -> Iterator[str]:
    """The keys of the tensors that options or state refer to, well formed or not."""
    if isinstance(value, dict):
        if isinstance(value.get("tensor"), str):
            yield value["tensor"]
        value = [*value.values()]
    for entry in value if isinstance(value, (list, tuple)) else ():
        yield from tensors_named(entry)


def restoring(record: OptimizerRecord, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> list[Step]:
    """Steps that put a record into an optimizer that fits it."""
    steps: list[Step] = []
    for group, saved in zip(optimizer.param_groups, record.groups, strict=True):
        options = {key: _decoded(value, tensors, _beside(group["params"])) for key, value in saved.options.items()}
        steps.append(SetContents(group, tuple(group.items()), tuple({**group, **options}.items())))
    state = {}
    for i, j, entries in record.state:
        options, parameter = record.groups[i].options, optimizer.param_groups[i]["params"][j]
        on_device = bool(options.get("capturable") or options.get("fused"))
        place = _placed(parameter, on_device)
        state[parameter] = {key: _decoded(value, tensors, place) for key, value in entries.items()}
        for key, value in state[parameter].items():
            _check_shape(record.groups[i].parameters[j], key, value, parameter)
    steps.append(SetContents(optimizer.state, tuple(optimizer.state.items()), tuple(state.items())))
    return steps


def _encoded(value: Any, store: Callable[[Tensor], str], where: str) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": store(value), "scalar on cpu": value.dim() == 0 and value.device.type == "cpu"}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_encoded(entry, store, where) for entry in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encoded(entry, store, where) for key, entry in value.items()}}
    raise CheckpointError(
        f"the optimizer keeps {where!r}, a {type(value).__name__}, which cannot be saved without pickle"
    )


Place = Callable[[Tensor, bool], Tensor]
"""Puts a loaded tensor, of which it is known whether it was a scalar on the CPU, where the optimizer wants it."""


def _decoded(value: Any, tensors: Mapping[str, Tensor], place: Place) -> Any:
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise CheckpointError("malformed optimizer state: a list where a value was expected")
        return value
    kind, content = next(iter(value.items()), ("nothing", None))
    if kind == "tensor" and isinstance(content, str) and content in tensors:
        return place(tensors[content], value.get("scalar on cpu") is True)
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind in ("list", "tuple") and isinstance(content, list):
        entries = [_decoded(entry, tensors, place) for entry in content]
        return entries if kind == "list" else tuple(entries)
    if kind == "dict" and isinstance(content, dict):
        return {key: _decoded(entry, tensors, place) for key, entry in content.items()}
    raise CheckpointError(f"malformed optimizer state: {kind} {str(content)[:40]!r}")


def _placed(parameter: Tensor, scalars_on_device: bool) -> Place:
    """On the parameter's device and in its memory order, except for scalars that the optimizer keeps on the CPU."""

    def place(tensor: Tensor, scalar_on_cpu: bool) -> Tensor:
        if scalar_on_cpu and not scalars_on_device:
            return tensor.clone()
        if tensor.shape == parameter.shape:
            return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        return tensor.to(parameter.device, copy=True)

    return place


def _check_shape(name: str | None, key: str, value: Any, parameter: Tensor) -> None:
    """Raise `CheckpointError` if state that follows its parameter has a shape by which it cannot (`state_recipe`). What
    other keys hold only their optimizer knows."""
    if key not in FOLLOWING or not isinstance(value, Tensor) or value.numel() == 1:
        return
    if state_recipe(key, tuple(value.shape), tuple(parameter.shape), {}) is None:
        raise CheckpointError(
            f"the optimizer state {key!r} of {name} has the shape {tuple(value.shape)} in the checkpoint, the "
            f"parameter {tuple(parameter.shape)}"
        )


def _beside(parameters: list[Tensor]) -> Place:
    return _placed(parameters[0], False) if parameters else lambda tensor, _: tensor


def _alike(ours: Any, saved: Any) -> bool:
    """Whether a saved option can stand for ours: a number for a number, the same kind of container, or None."""
    if ours is None or saved is None:
        return True
    if isinstance(ours, str) or isinstance(saved, str):
        return type(ours) is type(saved)
    number = isinstance(saved, (bool, int, float)) or (
        isinstance(saved, dict) and bool({"float", "tensor"} & set(saved))
    )
    if isinstance(ours, (bool, int, float, Tensor)):
        return number
    return isinstance(saved, dict) and type(ours).__name__ in saved


def _counts(groups: list[list[str | None]]) -> str:
    return " + ".join(str(len(group)) for group in groups)
