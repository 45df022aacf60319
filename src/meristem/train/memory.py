"""The most memory that a stretch of a run takes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

import torch


class Memory:
    """Measures from its construction on.

    On a GPU: the most that was allocated on the device. Else the highest resident memory of the process, as Linux tells
    it (interpreter, libraries and data included); elsewhere it is not known. What earlier runs of the process have left
    behind counts, too: what is to be compared needs a process of its own, as the runs of a study have.

    Others may be made while this one measures: each makes the system's own peak begin anew, and all that exist then
    first note what it was.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._most = 0
        for other in _MEASURING:
            other.peak()
        _MEASURING.add(self)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):  # no Linux, or forbidden: then the peak is that of the process since its start
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int | None:
        """In bytes, or None where it is not known."""
        self._most = max(self._most, self._told())
        return self._most or None

    def _told(self) -> int:
        """What the system tells; 0 if nothing."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        found = [line for line in lines if line.startswith("VmHWM:")]
        return 1024 * int(found[0].split()[1]) if found else 0


_MEASURING: WeakSet[Memory] = WeakSet()
