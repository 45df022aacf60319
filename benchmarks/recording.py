"""Which recording should lead, a dispatch mode over fake tensors or `torch.export`? `python -m benchmarks.recording`.

Both record the same operators. The dispatch mode leads because it is faster, and it follows models that export refuses.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from benchmarks.models import build, example
from benchmarks.pair import options, write
from meristem.axes.recorder import Recorder
from meristem.axes.rules import known
from meristem.axes.running import run

MODELS = ("resnet50", "vit_base", "bert_base", "llama_134m")


def main() -> None:
    """Measure and write results/recording.json."""
    chosen = options(__doc__)
    torch.set_num_threads(1)
    rows = [side_by_side(name, chosen.rounds) for name in chosen.models or MODELS]
    if not chosen.models:
        write("recording", rows)


def side_by_side(name: str, rounds: int) -> dict[str, Any]:
    """Median seconds of both, taking turns, after one warm-up each."""
    model, inputs = build(name), example(name)
    recorded, exported = [], []
    for _ in range(rounds + 1):
        recorded.append(seconds(lambda: record(model, inputs)))
        exported.append(seconds(lambda: torch.export.export(model, (), inputs, strict=False)))
    ours, export = statistics.median(recorded[1:]), statistics.median(exported[1:])
    row = {"model": name, "recording": round(ours, 4), "export": round(export, 4), "ratio": round(ours / export, 3)}
    print(row)
    return row


def record(model: nn.Module, inputs: dict[str, Any]) -> None:
    """One recording on fake tensors."""
    run(model, (), inputs, lambda stack, fake: Recorder(known, stack, fake), real=False, training=False)


def seconds(function: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
