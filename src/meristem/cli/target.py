"""From what was typed to a model and its example input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meristem.cli.own import own
from meristem.errors import ConfigError
from meristem.train.imported import resolve


def load_model(path: str, kwargs: str) -> nn.Module:
    """The model at an import path `module:name`, or what the callable there builds.

    Args:
        path: e.g. `torchvision.models:resnet18`; modules in the current folder are found too.
        kwargs: JSON object with keyword arguments for the callable.

    Raises:
        ConfigError: there is no such module or name, the arguments do not fit, what builds it fails, or the result is
            no `nn.Module`.
    """
    found = resolve(path)
    arguments = _arguments(kwargs)
    if isinstance(found, nn.Module):
        if arguments:
            raise ConfigError(f"{path} is a model already; --kwargs is for what builds one")
        return found
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__}; expected an nn.Module, or a callable that returns one")
    with own(path):
        try:
            model = found(**arguments)
        except TypeError as error:
            raise ConfigError(
                f"{path} could not be called with {arguments}: {error}. Give arguments with --kwargs"
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{path} returned a {type(model).__name__}; expected an nn.Module")
    return model


def make_inputs(shapes: Sequence[str], dtype: str, high: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random inputs, positional and by name.

    Args:
        shapes: each as `1,3,224,224`, or `NAME=1,16` for a keyword argument.
        dtype: a torch type; integers are drawn from 0 to `high` - 1, floating-point numbers from a normal distribution.
        high: see there.

    Raises:
        ConfigError: a shape or the type cannot be read.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ConfigError(f"unknown type {dtype!r}; expected one of torch's, such as float32 or int64")
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for text in shapes:
        name, _, sizes = text.rpartition("=")
        tensor = _random(_shape(sizes, text), kind, high)
        if name:
            named[name] = tensor
        else:
            positional.append(tensor)
    return tuple(positional), named


def _arguments(kwargs: str) -> dict[str, Any]:
    try:
        found = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--kwargs is not JSON ({error}); expected an object, such as '{{\"depth\": 2}}'") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--kwargs should be a JSON object; found {kwargs}")
    return found


def _shape(sizes: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"--shape {text!r} is no shape; expected positive whole numbers, such as 1,3,224,224")
    return found


def _random(shape: tuple[int, ...], dtype: torch.dtype, high: int) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(2 if dtype is torch.bool else high, shape).to(dtype)
