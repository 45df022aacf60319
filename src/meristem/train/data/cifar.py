"""CIFAR-10 and CIFAR-100 as in torchvision's folders (`cifar-10-batches-py`, `cifar-100-python`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from meristem.errors import DataError
from meristem.train.data.unpickle import read_pickle

Part = tuple[np.ndarray, np.ndarray]


def read_ten(folder: Path) -> tuple[Part, Part] | None:
    """Training and test part of a `cifar-10-batches-py` folder, or None if a file is missing."""
    return _read(folder, [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], b"labels")


def read_hundred(folder: Path) -> tuple[Part, Part] | None:
    """Training and test part of a `cifar-100-python` folder (fine labels), or None if a file is missing."""
    return _read(folder, ["train"], ["test"], b"fine_labels")


def _read(folder: Path, train: list[str], test: list[str], labels: bytes) -> tuple[Part, Part] | None:
    if not all((folder / name).is_file() for name in (*train, *test)):
        return None
    first, second = ([_batch(folder / name, labels) for name in names] for names in (train, test))
    return _joined(first), _joined(second)


def _joined(batches: list[Part]) -> Part:
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


def _batch(path: Path, labels: bytes) -> Part:
    content = read_pickle(path)
    images: Any = content.get(b"data")
    classes: Any = content.get(labels)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072:
        raise DataError(f"{path}: expected 'data' with 3072 bytes an image; found {getattr(images, 'shape', images)}")
    if not isinstance(classes, list) or not all(type(label) is int for label in classes):
        raise DataError(f"{path}: expected {labels.decode()!r}, a list of integers; found {type(classes).__name__}")
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(classes, dtype=np.int64)
