"""Refusing wrappers: editing behind them would be silently ineffective or wrong."""

from __future__ import annotations

import torch
from torch import nn

from meristem.errors import TraceError, WrappedModelError


def check_model(model: object) -> nn.Module:
    """Return the model if it can be mapped.

    Raises:
        WrappedModelError: DDP, FSDP, DataParallel, a compiled, scripted or exported module; says what to pass instead.
        TraceError: not a module, or parameters that have no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        remedy = _remedy(module)
        if remedy is not None:
            where = "the model" if not name else f"its module {name!r}"
            raise WrappedModelError(f"{where} is a {type(module).__name__}: {remedy}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise TraceError(
                f"parameter {name!r} is lazy and has no shape yet: run the model once on an example, then trace"
            )
    return model


def _remedy(module: nn.Module) -> str | None:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted or traced module cannot be edited; pass the Python model it was made from"
    if any(base.__module__.startswith("torch.export.") for base in kind.__mro__):
        return "an exported graph is fixed to the sizes it was exported with; pass the Python model it was made from"
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return "pass `model.module`, edit, and wrap again: replaced parameters would not be synchronized"
    if kind.__name__ == "OptimizedModule" and kind.__module__.startswith("torch._dynamo"):
        return "pass the original model (`compiled._orig_mod`) and compile again after the edit"
    if kind.__module__.startswith("torch.distributed.fsdp") or any("FSDP" in base.__name__ for base in kind.__mro__):
        return "parameters are sharded; trace and edit the model before wrapping it with FSDP"
    return None
