"""What to tell when a model cannot be run on its example."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload

from meristem.axes.map import Example
from meristem.axes.recorder import Recorder, line_of
from meristem.errors import TraceError


def trace_error(model: nn.Module, example: Example, error: Exception) -> TraceError:
    """The error that tells where the model's forward raised another one, and with what it was called.

    It names the innermost line outside of PyTorch, the operator if one refused its arguments, and the innermost module.
    """
    name, message = type(model).__name__, (str(error).splitlines() or [""])[0].rstrip(".")
    kind = "" if isinstance(error, TraceError) else f"{type(error).__name__}: "
    advice = "" if _binds(model, example) else ". Give the arguments that its forward takes: trace(model, args, kwargs)"
    return TraceError(
        f"{name} could not be run on the example input: {kind}{message}{_place(model, error)}. "
        f"It was called as {name}({_shown(example)}){advice}."
    )


def _binds(model: nn.Module, example: Example) -> bool:
    """Whether the model's forward takes so many arguments, of these names."""
    args, kwargs, _ = example
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # no signature is known
        return True
    return True


def _place(model: nn.Module, error: Exception) -> str:
    """Where an error was raised: `, at file:line, in operator of module 'name' (type)`, as far as that is known."""
    names = {id(module): path for path, module in model.named_modules()}
    line, operator, module = "", "", ""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        line = line_of(frame.f_code, trace.tb_lineno) or line
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(id(owner)):
            module, operator = f"module {names[id(owner)]!r} ({type(owner).__name__})", ""
        elif isinstance(owner, Recorder):
            operator = operator or _operator(frame)
        trace = trace.tb_next
    within = " of ".join(part for part in (operator, module) if part)
    return (f", at {line}" if line else "") + (f", in {within}" if within else "")


def _operator(frame: FrameType) -> str:
    called = frame.f_locals.get("func")
    return str(called) if isinstance(called, OpOverload) else ""


def _shown(example: Example) -> str:
    """The arguments, each by its type, tensors by shape and dtype."""
    args, kwargs, _ = example
    parts = [_described(value) for value in args]
    return ", ".join([*parts, *(f"{name}={_described(value)}" for name, value in kwargs.items())])


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
