"""One side of a comparison, in a process of its own: reads tasks as JSON lines, answers with JSON lines.

`python -m benchmarks.worker SIDE`, SIDE being the module that is measured: `ours` or `peer`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
import time
import warnings
from typing import Any

import torch

from benchmarks.memory import resident, settled
from benchmarks.models import build, example


def measure(side: Any, task: str, name: str) -> dict[str, Any]:
    """Run one task once on a fresh model: seconds, and how far memory rose above where it stood."""
    model, inputs = build(name), example(name)
    standing = settled()
    start = time.perf_counter()
    result = getattr(side, task)(model, inputs)
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "peak_bytes": resident("VmHWM") - standing}
    return found | (result if isinstance(result, dict) else {})


def main() -> None:
    """Serve until the input ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    side = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer = measure(side, request["task"], request["model"])
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
