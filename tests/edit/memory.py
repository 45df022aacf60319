"""How much memory something takes while it runs (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STATUS, RESTART = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    """Assert that the memory of this process never rises by more than so many bytes in the block."""
    gc.collect()
    try:
        RESTART.write_text("5")  # the reading of the peak begins anew
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        pytest.skip("the peak of memory cannot be read here")
    before = _reading("VmRSS")
    yield
    assert _reading("VmHWM") - before < limit


def _reading(field: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(field))
