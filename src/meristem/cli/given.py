"""What was typed to `meristem prune`, and what it names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import nn
from torch.utils._pytree import tree_map_only

from meristem.cli.exported import outputs
from meristem.cli.own import Batches, OwnLoss, own, said
from meristem.cli.target import make_inputs
from meristem.errors import ConfigError
from meristem.prune import Criterion
from meristem.recipes import supervised
from meristem.recipes.evidence import Loss
from meristem.train.build import DEATH, build_criterion, named
from meristem.train.config import PruneConfig
from meristem.train.imported import resolve

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Moved = TypeVar("Moved", nn.Module, torch.Tensor)

_LOSS = "--loss module:name, a function f(model, batch)"


@dataclass(frozen=True)
class Given:
    """The model, its weights, and how it is called, as typed."""

    checkpoint: Path
    model: str
    kwargs: str
    shapes: list[str]
    dtype: str
    high: int
    example: str | None
    device: str


@dataclass(frozen=True)
class Data:
    """What units are scored with, and how the model is trained with it, as typed."""

    loader: str | None
    loss: str | None
    epochs: int
    learning_rate: float


def example_of(given: Given) -> Inputs:
    """The example input, on the device. Raises `ConfigError`: there is none, or it cannot be made."""
    if given.example is None:
        if not given.shapes:
            raise ConfigError("how is the model called? Give --shape 1,3,224,224, or --example module:name")
        found: Inputs = make_inputs(given.shapes, given.dtype, given.high)
    else:
        value = resolve(given.example)
        with own(f"--example {given.example}"):
            value = value() if callable(value) else value
        positional = value if isinstance(value, tuple) else () if isinstance(value, Mapping) else (value,)
        found = (positional, dict(value) if isinstance(value, Mapping) else {})
    return tree_map_only(torch.Tensor, lambda x: moved(given.device, x), found)


def require_folder(out: Path) -> None:
    """Raise `ConfigError` if nothing can be written there: before the work is done, not after."""
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out} cannot be written to: {nearest} is no folder that may be written to")


def require_runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Given) -> None:
    """Raise `ConfigError` if the model refuses the values of the example, which tracing does not look at."""
    try:
        outputs(model, args, kwargs)
    except (IndexError, RuntimeError) as error:
        drawn = f"; whole numbers were drawn from 0 to {given.high - 1} (--high)" if given.example is None else ""
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"the model cannot be run on the example: {type(error).__name__}: {reason}{drawn}") from error


def loss_of(data: Data) -> Loss:
    """The loss at an import path; default: `supervised`. Raises `ConfigError`: there is none, or it fails."""
    found: Loss = partial(supervised, other=_LOSS) if data.loss is None else resolve(data.loss)
    if not callable(found):
        raise ConfigError(
            f"--loss {data.loss} is a {type(found).__name__}; expected a function of the model and a batch"
        )
    name = "the default loss" if data.loss is None else f"--loss {data.loss}"
    return OwnLoss(found, f"{name} on a batch of --loader {data.loader}")


def moved(device: str, what: Moved) -> Moved:
    """On the device. Raises `ConfigError`: there is none."""
    try:
        return what.to(device)
    except (RuntimeError, AssertionError, ImportError) as error:  # each of them means: not built for that device
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}") from error


def batches_of(path: str | None) -> Iterable[Any] | None:
    """The batches at an import path, or that what is there builds. Raises `ConfigError`: there are none, or they can be
    read only once, while they are looked at again and again."""
    if path is None:
        return None
    found = resolve(path)
    with own(f"--loader {path}"):
        found = found() if callable(found) else found
    if not isinstance(found, Iterable):
        raise ConfigError(f"{path} should be a DataLoader, or what builds one; found {type(found).__name__}")
    if isinstance(found, Iterator):
        raise ConfigError(
            f"--loader {path} gives a {type(found).__name__}, which can be read once, but is read in each round and "
            "epoch: let it give a DataLoader or a list"
        )
    return Batches(found, path)


def first_of(batches: Iterable[Any] | None, path: str | None) -> Any:
    """The first batch, None without a loader. Raises `ConfigError`: there is none."""
    if batches is None:
        return None
    found = next(iter(batches), None)
    if found is None:
        raise ConfigError(f"--loader {path} gives no batches")
    return found


def criterion_of(text: str | None) -> Criterion | None:
    """The criterion of a name, `Magnitude`, alone or with settings as in the configuration of `meristem train`,
    `Magnitude: {p: 1}`, also one that changes another, `Normalized: {criterion: Magnitude}`; or one of the user's own,
    `module:name`. Raises `ConfigError`: there is none, or it refuses its settings.
    """
    if text is None:
        return None
    name, options = _with_settings(text)
    known = {name: kind.__name__ for name, kind in DEATH.items()}
    if ":" not in name and name.lower() not in known:
        near = get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"; did you mean {known[near[0]]}?" if near else ""
        raise ConfigError(f"unknown criterion {name!r}; expected one of {', '.join(known.values())}{hint}")
    try:
        return build_criterion(PruneConfig(criterion=name, options=options))
    except ConfigError as error:
        raise ConfigError(f"--criterion {text!r}: {error}") from error


def _with_settings(text: str) -> tuple[str, dict[str, Any]]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--criterion {text!r} cannot be read: {said(error)}") from error
    return named(found, f"--criterion {text!r}")
