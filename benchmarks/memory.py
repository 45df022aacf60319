"""How far the memory of this process rises (Linux)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def resident(field: str) -> int:
    """A reading in bytes: `VmRSS` now, `VmHWM` at its peak since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def settled() -> int:
    """Give freed memory back to the system, restart the reading of the peak, and return where memory stands."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    restart_peak()
    return resident("VmRSS")


def restart_peak() -> None:
    """Restart the reading of the peak."""
    Path("/proc/self/clear_refs").write_text("5")
