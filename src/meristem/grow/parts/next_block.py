"""The counterpart of a tensor in the next block of the same kind."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def following(model: nn.Module, name: str) -> str | None:
    """The name of the parameter that is in the next block what this one is in its own.

    A block is a child of a module; the next one is the first child after it with parameters of the same names and
    shapes. Of nested blocks the outermost one with a next one counts.

    Args:
        model: the model.
        name: the name of a parameter.

    Returns:
        another name, or None if no block follows.
    """
    path = name.split(".")
    for depth in range(1, len(path)):
        parent, rest = ".".join(path[: depth - 1]), path[depth:]
        own = _parameters(model.get_submodule(".".join(path[:depth])))
        for child in _behind(model.get_submodule(parent), path[depth - 1]):
            if own and _parameters(model.get_submodule(".".join([*path[: depth - 1], child]))) == own:
                return ".".join([*path[: depth - 1], child, *rest])
    return None


def _behind(parent: nn.Module, child: str) -> Iterator[str]:
    """The names of the children behind one, if they are a sequence: they are numbered."""
    names = [name for name, _ in parent.named_children()]
    yield from (name for name in names[names.index(child) + 1 :] if name.isdecimal() and child.isdecimal())


def _parameters(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}
