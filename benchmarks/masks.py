"""What masks cost: `python -m benchmarks.masks`, about ten minutes, one thread.

Training steps of a sparse model and of a dense one take turns, and after some of them comes the update (drop and grow)
of the method: all that `optimizer.step()` does at that step. RigL is measured on all models, the other methods that
change their masks on the first one; with DeepR every step is such a step. Seconds are of the processor, not of the
clock: with one thread they are the same on a machine that does nothing else, and other work disturbs them less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import timm_model
from benchmarks.pair import write
from meristem.mask import (
    SET,
    SNFS,
    DeepR,
    GradualMagnitude,
    GraNet,
    IterativeMagnitude,
    Method,
    RigL,
    Sparse,
    TopKAST,
)
from tests.zoo.torchvision_stub import install

Make = Callable[[Any], torch.optim.Optimizer]

CASES: dict[str, tuple[str, Make, tuple[int, ...]]] = {
    "resnet18": ("resnet18", lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), (64, 3, 96, 96)),
    "resnet18, 16 images": ("resnet18", lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), (16, 3, 96, 96)),
    "vit_small": ("vit_small_patch16_224", lambda p: torch.optim.AdamW(p, lr=1e-5), (16, 3, 224, 224)),
    "vit_small, 4 images": ("vit_small_patch16_224", lambda p: torch.optim.AdamW(p, lr=1e-5), (4, 3, 224, 224)),
}
"""timm's name, optimizer, shape of a batch. What masks cost does not depend on the batch: small ones make them look
dear."""

STEPS = 4
"""Masked steps for each update. RigL's own default is a hundred; the first one after an update costs a little more."""


LATE = 10**9
"""An end that is far away: fractions and densities stay those of the first updates, the dearest ones."""

METHODS: dict[str, Callable[[float], Method]] = {
    "RigL": lambda density: RigL(density=density, end=LATE, interval=STEPS + 1),
    "SET": lambda density: SET(density=density, interval=STEPS + 1),
    "SNFS": lambda density: SNFS(density=density, end=LATE, interval=STEPS + 1),
    "DeepR": lambda density: DeepR(density=density),
    "TopKAST": lambda density: TopKAST(density=density, backward=2 * density, interval=STEPS + 1),
    "GradualMagnitude": lambda density: GradualMagnitude(density=density, end=LATE, interval=STEPS + 1),
    "GraNet": lambda density: GraNet(density=density, end=LATE, interval=STEPS + 1),
    "IterativeMagnitude": lambda density: IterativeMagnitude(interval=STEPS + 1, fraction=0.05, rounds=LATE),
}
"""Every method that changes its masks, at a density that it comes to or has."""


class Side:
    """One model in training."""

    def __init__(self, case: str) -> None:
        name, make, shape = CASES[case]
        torch.manual_seed(0)
        self.model = timm_model(name)().train()
        self.optimizer = make(self.model.parameters())
        self.x, self.y = torch.randn(*shape), torch.randint(1000, (shape[0],))

    def passes(self) -> Tensor:
        """Forward and backward."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        return loss

    def step(self) -> None:
        """One training step."""
        self.passes()
        self.optimizer.step()


def timed(job: Callable[[], Any]) -> float:
    """How long it takes once, in seconds of the processor."""
    before = time.process_time()
    job()
    return time.process_time() - before


def pair(first: Callable[[], Any], second: Callable[[], Any], *, flip: bool) -> tuple[float, float]:
    """How long each takes once; the second one goes first if flipped."""
    if not flip:
        return timed(first), timed(second)
    after = timed(second)
    return timed(first), after


def measure(case: str, method: str, density: float, seconds: float) -> dict[str, Any]:
    """Median times, and medians of the ratios of neighbours in time; the first turn is left out."""
    dense, sparse = Side(case), Side(case)
    sparsity = Sparse(sparse.model, sparse.optimizer, METHODS[method](density))
    steps: list[list[tuple[float, float]]] = []
    updates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(steps) < 3:
        steps.append([pair(dense.step, sparse.step, flip=bool(number % 2)) for number in range(STEPS)])
        sparse.passes()
        updates.append(timed(sparse.optimizer.step))
        assert sparsity.updated == sparsity.steps
    pairs = [found for turn in steps[1:] for found in turn]
    dense_seconds, masked_seconds = (statistics.median(side) for side in zip(*pairs, strict=True))
    update_seconds = statistics.median(updates[1:])
    return {
        "case": case,
        "method": method,
        "optimizer": type(sparse.optimizer).__name__,
        "density": round(sparsity.masks.density, 4),
        "weights": sum(mask.numel() for mask in sparsity.masks.values()),
        "pairs": len(pairs),
        "dense_seconds": dense_seconds,
        "masked_seconds": masked_seconds,
        "update_seconds": update_seconds,
        "ratio_of_step": statistics.median(masked / bare for bare, masked in pairs),
        "ratio_of_update": update_seconds / dense_seconds,
    }


def main() -> None:
    """Measure and write results/masks.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each model with RigL")
    parser.add_argument("--density", type=float, default=0.1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    install()
    others = [("resnet18", method) for method in METHODS if method != "RigL"]
    results = []
    for case, method in [*((case, "RigL") for case in CASES), *others]:
        seconds = arguments.seconds if method == "RigL" else 0.3 * arguments.seconds
        results.append(measure(case, method, arguments.density, seconds))
        print(results[-1], flush=True)
    write("masks", results)


if __name__ == "__main__":
    main()
