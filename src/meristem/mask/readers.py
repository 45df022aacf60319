"""Which weights anything but the forward of their own module computes with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meristem.axes.trace import examples_of


def readers(model: nn.Module, names: Iterable[str], example: Any) -> dict[str, str]:
    """What is to be said of each weight with which another module computes, too, when the model runs on an example.

    Args:
        model: the model; it runs once for each example, without gradients.
        names: of parameters.
        example: inputs of the model, as for `meristem.trace`, or its map.
    """
    watch = _Watch(model, names)
    handles = [h for m in model.modules() for h in watch.follow(m)]
    try:
        with torch.no_grad(), watch:
            for args, kwargs, _ in examples_of(example):
                model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return watch.found


class _Watch(TorchDispatchMode):
    """Sees every operation, and knows in which module's forward it is."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._names = {id(model.get_parameter(name)): name for name in names}
        self._owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in self._names.values()}
        self._inside: list[nn.Module] = []

    def follow(self, module: nn.Module) -> tuple[Any, Any]:
        """Hooks that tell when a module's forward begins and ends."""
        enter = module.register_forward_pre_hook(lambda m, args: self._inside.append(m), prepend=False)
        leave = module.register_forward_hook(lambda m, args, out: self._left(), prepend=True)
        return enter, leave

    def _left(self) -> None:
        self._inside.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            name = self._names.get(id(leaf))
            if name is not None and (not self._inside or self._inside[-1] is not self._owners[name]):
                reader = type(self._inside[-1]).__name__ if self._inside else "code outside of any module"
                self.found[name] = f"{reader} computes with it itself, not by the forward of its own module"
        return func(*args, **(kwargs or {}))
