"""What sparse training saves: everything as JSON, tensors packed into text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from meristem.errors import CheckpointError


class Packed(BaseModel):
    """A tensor as text: its type, its shape, and its bytes (bools as bits), compressed, in base 64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data: str

    @classmethod
    def of(cls, tensor: Tensor) -> Packed:
        """Pack a tensor."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if tensor.dtype == torch.bool:
            raw = numpy.packbits(flat.numpy()).tobytes()
        else:
            raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        data = base64.b85encode(zlib.compress(raw, 1)).decode()
        return cls(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), data=data)

    def tensor(self) -> Tensor:
        """The tensor, on the CPU. Raises `CheckpointError` if the text does not hold one."""
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"a saved tensor is said to be of type {self.dtype!r}, which does not exist")
        count = prod(self.shape)
        size = (count + 7) // 8 if dtype == torch.bool else count * dtype.itemsize
        try:
            raw = zlib.decompressobj().decompress(base64.b85decode(self.data), size + 1)
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"a saved tensor is damaged: {error}") from error
        if len(raw) != size:
            raise CheckpointError(f"a saved tensor of shape {self.shape} holds {len(raw)} bytes, expected {size}")
        if dtype == torch.bool:
            bits = numpy.unpackbits(numpy.frombuffer(raw, numpy.uint8), count=count)
            return torch.from_numpy(bits.astype(bool)).reshape(self.shape)
        if not count:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(self.shape)


class State(BaseModel):
    """Everything that sparse training remembers between steps, apart from the model and its optimizers.

    Attributes:
        method: the name of its class.
        step, updated, seed: as in `Sparse`.
        densities: the share of weights that each parameter is to have.
        masks, learning: by parameter name.
        memory: by kind and tensor name.
        first: by parameter name, see `Kept`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    step: NonNegativeInt
    updated: NonNegativeInt | None
    seed: int
    densities: dict[str, float]
    masks: dict[str, Packed]
    learning: dict[str, Packed]
    memory: dict[str, dict[str, Packed]]
    first: dict[str, Packed] = {}

    @classmethod
    def parse(cls, saved: Mapping[str, Any]) -> State:
        """The state from nested dicts. Raises `CheckpointError` if an entry is missing or malformed."""
        try:
            return cls.model_validate(dict(saved))
        except (ValidationError, TypeError, ValueError) as error:
            raise CheckpointError(f"this is no state of sparse training: {error}") from error


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Packed]:
    """Each tensor packed."""
    return {name: Packed.of(tensor) for name, tensor in tensors.items()}


def unpacked(tensors: Mapping[str, Packed]) -> dict[str, Tensor]:
    """Each tensor again, on the CPU."""
    return {name: entry.tensor() for name, entry in tensors.items()}
