"""Checkpoint files: one safetensors file with a JSON document and a digest in its header, written atomically."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from meristem.errors import CheckpointError

DOCUMENT, DIGEST = "meristem", "blake2b"


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], document: str) -> None:
    """Write a file, or leave the old one untouched: to a temporary file beside it, synchronized, then renamed.

    Raises:
        CheckpointError: it could not be written; the message says why.
    """
    target = Path(path)
    plain = {name: _plain(tensor) for name, tensor in tensors.items()}
    metadata = {DOCUMENT: document, DIGEST: _digest(plain, document)}
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        save_file(plain, temporary, metadata)
        os.chmod(temporary, 0o666 & ~_umask())
        _synchronize(temporary, os.O_RDWR)
        os.replace(temporary, target)
        temporary = ""
        _synchronize(target.parent, os.O_RDONLY)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {target} could not be written: {error}") from error
    finally:
        if temporary:
            os.unlink(temporary)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """All tensors (on the CPU) and the document of a file, after a check of its digest.

    Raises:
        CheckpointError: the file is missing, truncated, corrupted, or no checkpoint of meristem.
    """
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if DOCUMENT not in metadata or DIGEST not in metadata:
                raise CheckpointError(f"{path} is a safetensors file, but none that meristem.save wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error or type(error).__name__}") from error
    if _digest(tensors, metadata[DOCUMENT]) != metadata[DIGEST]:
        raise CheckpointError(f"{path} is corrupted: its contents do not match its digest")
    return tensors, metadata[DOCUMENT]


def _plain(tensor: Tensor) -> Tensor:
    """A dense CPU tensor with memory of its own order; shared memory is written once for each tensor."""
    plain = tensor.detach().to("cpu")
    if plain.layout is not torch.strided:
        raise CheckpointError(f"a tensor with the layout {plain.layout} cannot be saved")
    return plain.contiguous()


def _digest(tensors: Mapping[str, Tensor], document: str) -> str:
    digest = hashlib.blake2b(document.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _synchronize(path: str | Path, flags: int) -> None:
    """Force a file or a folder to the disk, where the system lets folders be opened."""
    if Path(path).is_dir() and os.name == "nt":
        return
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
