"""What has been added up so far, as JSON has it, so that a recording that was cut off can go on: exact, bit for bit."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from meristem.errors import CheckpointError

TENSOR, PAIRS = "tensor", "pairs"


def plain(value: Any) -> Any:
    """Numbers, strings, None, tensors and lists, tuples and dicts of them, in a form that JSON keeps bit for bit.

    Tuples become lists.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, Tensor):
        entries = value.detach().to("cpu").contiguous()
        data = base64.b64encode(entries.reshape(-1).view(torch.uint8).numpy().tobytes()).decode("ascii")
        return {TENSOR: [str(value.dtype).removeprefix("torch."), list(value.shape), data, str(value.device)]}
    if isinstance(value, dict):
        return {PAIRS: [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    raise TypeError(f"{type(value).__name__} cannot be kept; expected numbers, strings, tensors, or containers of them")


def restored(saved: Any) -> Any:
    """What `plain` was given, but for tuples, which are lists. Tensors are on the devices that they were on.

    Raises:
        CheckpointError: it is not what `plain` gives.
    """
    try:
        return _restored(saved)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"what a recording had added up is malformed: {error}") from error


def _restored(saved: Any) -> Any:
    if isinstance(saved, list):
        return [_restored(item) for item in saved]
    if not isinstance(saved, dict):
        return saved
    ((kind, content),) = saved.items()
    if kind == TENSOR:
        name, shape, data, device = content
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name!r} is no dtype")
        raw = bytearray(base64.b64decode(data, validate=True))
        entries = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return entries.reshape(shape).to(device)
    if kind == PAIRS:
        return {_restored(key): _restored(item) for key, item in content}
    if kind == "float":
        return float.fromhex(content)
    raise ValueError(f"expected a tensor, pairs or a float, got {kind!r}")
