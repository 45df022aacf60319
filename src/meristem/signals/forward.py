"""Every call that a model's code makes in its forward passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from meristem.signals.inside import inside

Hear: TypeAlias = "Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], None]"
"""Told of one call: the function, its arguments, its keyword arguments and what it returned."""


class Calls:
    """Shows the calls of all forward passes that record gradients, until it is closed.

    Args:
        model: the model. One that calls itself makes one pass of it, as it was traced.
        begin: called when a pass begins; what it returns is told of every call of that pass.
        end: called with what the model returned when a pass has ended, not if it was interrupted by an error before the
            model's hooks ran.
    """

    def __init__(self, model: nn.Module, begin: Callable[[], Hear], end: Callable[[Any], None] | None = None) -> None:
        self._begin = begin
        self._end = end
        self._mode: _Mode | None = None
        self._depth = 0
        self._handles = (
            model.register_forward_pre_hook(self._enter, prepend=True),
            model.register_forward_hook(self._leave, always_call=True),
        )

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        if self._mode is not None:  # a forward pass was interrupted
            self._mode.__exit__(None, None, None)
            self._mode = None

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._depth += 1
        if self._depth == 1 and torch.is_grad_enabled():
            self._mode = _Mode(self._begin())
            self._mode.__enter__()

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self._mode is not None:
            mode, self._mode = self._mode, None
            mode.__exit__(None, None, None)
            if self._end is not None:
                self._end(result)


class _Mode(TorchFunctionMode):
    """Within it every call is heard."""

    def __init__(self, hear: Hear) -> None:
        super().__init__()
        self._hear = hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = inside(self, func, args, kwargs or {})
        self._hear(func, args, kwargs or {}, result)
        return result


def whole(result: Tensor) -> Tensor:
    """What a result is a view of, if it only has another shape: hooks of a view are lost if it is modified in place."""
    base = result._base if result._is_view() else None
    same = base is not None and base.is_contiguous() and result.is_contiguous() and base.numel() == result.numel()
    return base if same and base is not None else result
