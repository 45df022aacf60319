"""What produced the numbers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Sitting:
    """A stretch of time in which runs of a study were made.

    Attributes:
        seconds: by the clock, evaluations, reading of data and starting of processes included.
        jobs: how many runs at a time.
        runs: how many were finished.
        machine: where.
    """

    seconds: float
    jobs: int
    runs: int
    machine: str


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {
        "meristem": version("meristem"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine() -> str:
    """In words: processor, cores, memory, GPUs, system."""
    return ", ".join(_parts())


def _parts() -> Iterator[str]:
    yield f"{os.cpu_count()} cores of {_processor()}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory"
    for index in range(torch.cuda.device_count()):
        yield torch.cuda.get_device_name(index)
    yield platform.system()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
