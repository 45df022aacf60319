"""What of a model's inputs and outputs is tensors: all that a file in an exchange format can hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves


class Leaves(nn.Module):
    """A model, called as it is, that returns the tensors of its output, in order, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

        @functools.wraps(model.forward)
        def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return tuple(leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor))

        self.forward = forward


@contextmanager
def without_caches(model: nn.Module) -> Iterator[None]:
    """The model as it answers without the caches of generation, where its configuration (Hugging Face's `use_cache`)
    can switch them off; afterwards as before."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    switched = [config for config in configs.values() if getattr(config, "use_cache", None)]
    try:
        for config in switched:
            config.use_cache = False
        yield
    finally:
        for config in switched:
            config.use_cache = True


def tensors_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors of a model's output, and by name what else is in it."""
    with torch.no_grad():
        found, _ = tree_flatten_with_path(model(*args, **kwargs))
    others = {_plain(keystr(path)): x for path, x in found if not isinstance(x, Tensor)}
    return [x for _, x in found if isinstance(x, Tensor)], others


def input_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str] | None:
    """How the model's code calls each input; None where one of them is no plain tensor, and so has several parts."""
    if not all(isinstance(x, Tensor) for x in (*args, *kwargs.values())):
        return None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in plain]
    named = [*names[: len(args)], *(f"input_{number}" for number in range(len(names), len(args)))]
    return [*named, *kwargs]


def doubled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The same inputs twice, as one batch; None where it is not plain which dimension that is: inputs are not all
    tensors of one first length."""
    values = (*args, *kwargs.values())
    if not values or not all(isinstance(x, Tensor) and x.dim() > 0 for x in values):
        return None
    if len({len(x) for x in values}) > 1:
        return None
    return tuple(torch.cat([x, x]) for x in args), {name: torch.cat([x, x]) for name, x in kwargs.items()}


def _plain(path: str) -> str:
    """A path of keys as text: `['past_key_values']` is `past_key_values`."""
    return path.replace("']['", ".").strip("[]'") or "the output"
