"""One side as a process of its own: prunes half of everything of one model, and has it judged.

`python -m benchmarks.zoo.worker zoo.SIDE`, SIDE being `ours`, `peer` or `hinted`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.serving import serve
from benchmarks.zoo.judge import subject, verdict
from tests.zoo.models import row


def measure(side: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on one model, and how many parameters it had and has."""
    given = row(request["model"])
    original = subject(given)
    work = copy.deepcopy(original)
    args, kwargs = given.example()
    start = time.perf_counter()
    side.prune(work, args, kwargs)
    seconds = time.perf_counter() - start
    parameters = [sum(p.numel() for p in model.parameters()) for model in (original, work)]
    found = verdict(given, original, work, compare=request["task"] == "compare")
    return {"verdict": found, "parameters": parameters, "seconds": round(seconds, 3)}


if __name__ == "__main__":
    serve(measure)
