"""The batch that a model was trained on last: for what is measured of newborns right when they are born."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle


class LastBatch:
    """A hook before the forward pass of a model, which keeps what it is called with while it trains.

    It keeps one batch alive until the next one. Copies of the model have a hook of their own, with nothing in it.

    Attributes:
        given: positional and keyword arguments, detached; None if nothing was seen.
    """

    def __init__(self) -> None:
        self.given: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None

    def __reduce__(self) -> tuple[type[LastBatch], tuple[()]]:
        return LastBatch, ()

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if torch.compiler.is_compiling() or not (model.training and torch.is_grad_enabled()):
            return
        if not any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            self.given = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))

    def listen(self, model: nn.Module) -> RemovableHandle:
        """Put the hook on."""
        return model.register_forward_pre_hook(self, with_kwargs=True)

    @torch.no_grad()
    def repeat(self, model: nn.Module) -> bool:
        """Run the model on it once more, in the mode in which it is, without gradients, and with the random generators
        left as they are. Whether there was anything to run it on; a model that does not train is not run."""
        if self.given is None or not model.training:
            return False
        args, kwargs = self.given
        devices = {x.device.index for x in model.parameters() if x.device.type == "cuda"}
        with torch.random.fork_rng(sorted(index for index in devices if index is not None)):
            model(*args, **kwargs)
        return True
