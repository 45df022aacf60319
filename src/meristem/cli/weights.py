"""Weights from a file into a freshly built model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

import meristem
from meristem.axes import AxisMap, trace
from meristem.cli.own import said
from meristem.edit.storage import DOCUMENT
from meristem.errors import CheckpointError, MeristemError

WRAPPERS = ("module.", "_orig_mod.")
"""What DDP and `torch.compile` put in front of every name."""


def restored(path: Path, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AxisMap:
    """Load a checkpoint into a model, and trace it.

    Args:
        path: a state dict as .safetensors, or as torch saves it and loads it with `weights_only` (then also below one
            key of a dict); or what `meristem.save` wrote, edits and all. Where the model's names all stand below one
            prefix, as in the checkpoint of a module that holds the model, what is below it is taken.
        model: freshly built.
        args, kwargs: example inputs, as for `trace`.

    Raises:
        CheckpointError: the file cannot be read, or is of another model; nothing was loaded.
        TraceError: the model could not be run on the example.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt", device="cpu") as file:
                if DOCUMENT in (file.metadata() or {}):
                    return meristem.load(path, model, args, kwargs)
                found: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds pickled objects, which could run code and are not loaded. {_EXPECTED}"
        ) from error
    except MeristemError:
        raise
    except Exception as error:  # there is little that torch.load does not raise for a file that is none of its own
        raise CheckpointError(f"{path} cannot be read: {said(error)}. {_EXPECTED}") from error
    state = _state(path, found)
    for prefix in WRAPPERS:
        consume_prefix_in_state_dict_if_present(state, prefix)
    state = _unprefixed(state, model)
    _complete(state, model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {_misfits(state, model, error)}") from error
    return trace(model, args, kwargs)


def _unprefixed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What stands below the only prefix below which all of the model is; the state itself if there is none."""
    own = set(model.state_dict())
    if not own.isdisjoint(state):
        return state
    ends = [(key, key.rpartition(".")[2]) for key in state]
    last = {name.rpartition(".")[2] for name in own}
    prefixes = {key.removesuffix(name) for key, end in ends if end in last for name in own if key.endswith(f".{name}")}
    below = [
        {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        for prefix in sorted(prefixes)
    ]
    for found in below:
        _complete(found, model)
    fitting = [found for found in below if own <= found.keys()]
    return fitting[0] if len(fitting) == 1 else state


def _complete(state: dict[str, Tensor], model: nn.Module) -> None:
    """Give tied tensors, which safetensors files hold once, all their names."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for tied in names.values():
        held = [name for name in tied if name in state]
        state.update({name: state[held[0]] for name in tied if held and name not in held})


def _misfits(state: Mapping[str, Tensor], model: nn.Module, error: RuntimeError) -> str:
    """In one line, which tensors do not fit."""
    own = model.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    groups = {
        "missing": [name for name in own if name not in state],
        "not in the model": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    said = [f"{what}: {_few(found)}" for what, found in groups.items() if found]
    return f"{'; '.join(said) or str(error).splitlines()[-1].strip()}. Is it of the model that --model builds?"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


_EXPECTED = "Expected a state dict, as .safetensors or as torch.save(model.state_dict(), path) writes it"


def _state(path: Path, found: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds: all of it, or the only entry that is one."""
    candidates = {"": found, **found} if isinstance(found, Mapping) else {}
    states = {key: value for key, value in candidates.items() if _is_state(value)}
    if len(states) != 1:
        raise CheckpointError(
            f"{path} should hold one state dict; found {', '.join(map(repr, states)) or type(found).__name__}. Save it "
            "by torch.save(model.state_dict(), path)"
        )
    return dict(next(iter(states.values())))


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(x, Tensor) for x in value.values())
