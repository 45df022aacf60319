"""MNIST's own file format (idx), plain or gzip-compressed, as in torchvision's `MNIST/raw` folder."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from meristem.errors import DataError

Part = tuple[np.ndarray, np.ndarray]


def find(folder: Path, stem: str) -> Path | None:
    """The plain or compressed file of that stem in a folder, or None."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def read_folder(folder: Path) -> tuple[Part, Part] | None:
    """Training and test part of a `raw` folder, or None if a file is missing."""
    parts = []
    for split in ("train", "t10k"):
        images = find(folder, f"{split}-images-idx3-ubyte")
        labels = find(folder, f"{split}-labels-idx1-ubyte")
        if images is None or labels is None:
            return None
        parts.append((read(images, dimensions=3), read(labels, dimensions=1)))
    return parts[0], parts[1]


def read(path: Path, dimensions: int) -> np.ndarray:
    """One idx file of unsigned bytes.

    Args:
        path: the file; decompressed when its name ends in `.gz`.
        dimensions: how many dimensions the array should have.

    Raises:
        DataError: the file is not an idx file of bytes with that many dimensions, or is truncated or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(
                    f"{path}: expected an idx file of bytes with {dimensions} dimensions; found {header[:4]!r}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            content = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the file again") from error
    if len(content) != math.prod(shape):
        found = "fewer" if len(content) < math.prod(shape) else "more"
        raise DataError(f"{path}: its header announces {math.prod(shape)} bytes, the file has {found}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
