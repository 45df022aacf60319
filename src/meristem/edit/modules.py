"""The modules of a model by their paths."""

from __future__ import annotations

from torch import nn


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by every path that it has, in the order of `named_modules`, in less time."""
    found = {"": model}
    _collect(model, "", found)
    return found


def _collect(module: nn.Module, prefix: str, found: dict[str, nn.Module]) -> None:
    for name, child in module._modules.items():
        if child is not None:
            path = prefix + name
            found[path] = child
            if child._modules:
                _collect(child, f"{path}.", found)
