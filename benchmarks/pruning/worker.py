"""One side as a process of its own: prunes a trained net as a file says, and writes the result as a file.

`python -m benchmarks.pruning.worker pruning.SIDE`, SIDE being `ours` or `peer`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.memory import resident, settled
from benchmarks.pruning.nets import build
from benchmarks.serving import serve


def measure(side: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of the call, of the processor and of the clock, and how far memory rose above where it stood.

    The first call of a process, and of a kind of net, is slower for reasons that are nobody's: it is made twice.
    """
    asked = torch.load(request["model"], weights_only=True)
    x, batches = asked["example"], [tuple(batch) for batch in asked["batches"]]
    settings = (x, batches, asked["criterion"], asked["removed"], asked["seed"])
    prepared = side.prepare(fresh(asked), *settings)
    side.prune(fresh(asked), *settings, prepared)
    model = fresh(asked)
    standing = settled()
    start, wall_start = time.process_time(), time.perf_counter()
    model = side.prune(model, *settings, prepared)
    seconds, wall_seconds = time.process_time() - start, time.perf_counter() - wall_start
    peak = resident("VmHWM") - standing
    model.zero_grad(set_to_none=True)
    torch.save(model, asked["result"])
    return {"seconds": seconds, "wall_seconds": wall_seconds, "peak_bytes": peak}


def fresh(asked: Mapping[str, Any]) -> torch.nn.Module:
    """The trained net."""
    model = build(asked["net"], asked["options"])
    model.load_state_dict(asked["state"])
    return model.eval()


if __name__ == "__main__":
    serve(measure)
