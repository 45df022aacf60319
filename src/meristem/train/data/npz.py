"""Data sets in one `.npz` file with the arrays x_train, y_train, x_test and y_test."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from meristem.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")

Part = tuple[np.ndarray, np.ndarray]


def read(path: Path) -> tuple[Part, Part] | None:
    """Training and test part of an `.npz` file, or None if there is no such file. Objects are never unpickled.

    Raises:
        DataError: the file is damaged, lacks an array, or holds pickled objects.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive]
            if missing:
                raise DataError(f"{path}: expected the arrays {', '.join(KEYS)}; {', '.join(missing)} missing")
            x_train, y_train, x_test, y_test = (archive[key] for key in KEYS)
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: not an .npz file that can be read safely ({error}); fetch it again") from error
    return (x_train, y_train), (x_test, y_test)
