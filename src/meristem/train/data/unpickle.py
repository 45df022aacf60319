"""Reads pickles that hold plain containers and byte arrays, and nothing else.

A pickle is a program: loading a hostile one runs its author's code. CIFAR's official files are pickles, so they are
read by an unpickler that admits three names of NumPy, each replaced by an inert stand-in that only remembers what it
was given; every other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from meristem.errors import DataError


class _Type:
    """Stands in for `numpy.dtype`: keeps the code of the type."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, _: Any) -> None:
        """The state of a dtype (byte order, fields) does not matter for bytes."""


class _Array:
    """Stands in for `numpy.ndarray`: keeps shape, type and raw content."""

    shape: tuple[int, ...] = ()
    kind: Any = None
    fortran: Any = False
    content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.content = state


def _new_array(*_: Any) -> _Array:
    return _Array()


def _latin1(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into an old-style pickle."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("only latin1 text is decoded")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for an admitted name; anything else is refused."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a data file has no reason to need")
        return _ADMITTED[module, name]


def read_pickle(path: Path) -> dict[bytes, Any]:
    """The dictionary in a pickle file; its keys as bytes, byte arrays as `numpy.ndarray` of uint8.

    Raises:
        DataError: the file is truncated, is not a dictionary, or asks for anything but byte arrays.
    """
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dictionary")
        return {_key(key): _thaw(value) for key, value in found.items()}
    except Exception as error:  # a malformed pickle can raise almost anything
        raise DataError(f"{path}: not a data file that can be read safely ({error}); fetch it again") from error


def _key(key: Any) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)


def _thaw(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    code = value.kind.code if isinstance(value.kind, _Type) else None
    if code not in ("u1", b"u1") or not isinstance(value.content, bytes):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of unsigned bytes (u1)")
    if len(value.content) != math.prod(value.shape):
        raise pickle.UnpicklingError(f"an array of shape {value.shape} has {len(value.content)} bytes")
    return np.frombuffer(value.content, np.uint8).reshape(value.shape, order="F" if value.fortran else "C")
