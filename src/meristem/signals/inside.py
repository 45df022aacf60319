"""Calls inside PyTorch's own Python functions, which a mode does not hear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def inside(
    mode: TorchFunctionMode, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """What a function gives that a mode is told of; where it is given a matrix of weights, the mode hears the calls
    inside it too.

    Functions that PyTorch writes in Python, such as `multi_head_attention_forward` of `nn.MultiheadAttention`, first
    ask whether anybody overrides them. A mode does: they tell it of themselves, and compute out of its sight. Here
    their code runs within the mode as if the answer had been no, so it computes the same.

    Args:
        mode: whose `__torch_function__` calls this.
        function, args, kwargs: as passed to it.
    """
    asked = _asked(function)
    if asked and any(_matrix(argument) for argument in (*args, *kwargs.values())):
        with mode:
            return _answered(function, asked)(*args, **kwargs)
    return function(*args, **kwargs)


def looked_into(function: Callable[..., Any]) -> bool:
    """Whether a mode may hear the calls inside a function."""
    return bool(_asked(function))


@cache
def _asked(function: Callable[..., Any]) -> tuple[str, ...]:
    """The questions that a Python function asks; none if it is not one."""
    if not isinstance(function, FunctionType):
        return ()
    return tuple(name for name in _QUESTIONS if name in function.__code__.co_names and name in function.__globals__)


def _matrix(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 1 and isinstance(argument, nn.Parameter)


def _answered(function: Any, asked: Sequence[str]) -> FunctionType:
    """The same function, the answer to these questions being no."""
    names = {**function.__globals__, **dict.fromkeys(asked, lambda *_: False)}
    found = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found
