"""What `Plasticity` costs: `python -m benchmarks.controller`, about a minute, one thread.

Steps without an edit: one loop that takes turns between the bare step and the same step followed by
`plasticity.step(loss)`; and that call alone, since it lies far below the noise of a step.
Steps after edits: a model that was grown and one that was pruned to some widths, taking turns with a model that was
built with these widths.
"""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pair import write
from meristem.grow import ZeroFanOut
from meristem.plasticity import Plasticity
from meristem.prune import Magnitude
from meristem.schedule import At, Every, OnPlateau, Schedule

Step = Callable[[], Tensor]


def mlp(a: int, b: int) -> nn.Module:
    """784-a-b-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 10))


def tiny(a: int, b: int) -> nn.Module:
    """64-a-b-10 with ReLU: a step of a fraction of a millisecond, where a fixed cost weighs most."""
    return nn.Sequential(nn.Linear(64, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 10))


def convolutions(a: int, b: int) -> nn.Module:
    """Two 3x3 convolutions with BatchNorm, stride 2, then a linear layer; for 32 x 32 images."""
    return nn.Sequential(
        nn.Conv2d(3, a, 3, stride=2, padding=1),
        nn.BatchNorm2d(a),
        nn.ReLU(),
        nn.Conv2d(a, b, 3, stride=2, padding=1),
        nn.BatchNorm2d(b),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * b, 10),
    )


CASES: dict[str, tuple[Callable[[int, int], nn.Module], tuple[int, int], tuple[int, ...]]] = {
    "tiny": (tiny, (64, 32), (32, 64)),
    "mlp": (mlp, (256, 256), (128, 784)),
    "convolutions": (convolutions, (32, 64), (64, 3, 32, 32)),
}


def training(model: nn.Module, shape: Sequence[int]) -> tuple[torch.optim.Optimizer, Tensor, Step]:
    """An optimizer, an example, and one training step without plasticity."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, y = torch.randn(*shape), torch.randint(10, (shape[0],))

    def step() -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return optimizer, x, step


def in_turn(first: Callable[[], Any], second: Callable[[], Any], seconds: float) -> tuple[float, float, float]:
    """Median times of two sides, and the median of the ratios second / first within each turn.

    They take turns, in alternating order, until the time is up; the first tenth is left out.
    """
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        if len(times) % 2:
            one, two = timed(first), timed(second)
        else:
            two, one = timed(second), timed(first)
        times.append((one, two))
    kept = times[len(times) // 10 :]
    one, two = (statistics.median(side) for side in zip(*kept, strict=True))
    return one, two, statistics.median(b / a for a, b in kept)


def timed(job: Callable[[], Any]) -> float:
    """How long it takes once, in seconds."""
    before = time.perf_counter()
    job()
    return time.perf_counter() - before


def idle(case: str, schedule: Schedule, seconds: float) -> dict[str, float]:
    """Steps that edit nothing, with and without the controller."""
    make, widths, shape = CASES[case]
    model = make(*widths)
    optimizer, x, step = training(model, shape)
    plasticity = Plasticity(model, optimizer, x, grow=ZeroFanOut(), prune=Magnitude(), schedule=schedule)
    bare, controlled, ratio = in_turn(step, lambda: plasticity.step(step()), seconds)
    loss = step().detach()
    call = statistics.median(timeit.repeat(lambda: plasticity.step(loss), number=200, repeat=25)) / 200
    return {
        "bare_seconds": bare,
        "with_controller_seconds": controlled,
        "call_seconds": call,
        "ratio_measured": ratio,
        "ratio_of_call": 1 + call / bare,
    }


def edited(case: str, factor: float) -> tuple[nn.Module, Step]:
    """A model that was built `1 / factor` times as wide and came to its widths by four edits, and its training step."""
    make, widths, shape = CASES[case]
    start = [round(width / factor) for width in widths]
    model = make(*start)
    optimizer, x, step = training(model, shape)
    missing = sum(widths) - sum(start)
    amount: dict[str, Any] = {"grow": missing // 4} if missing > 0 else {"prune": -missing // 4}
    plasticity = Plasticity(
        model,
        optimizer,
        x,
        grow=ZeroFanOut(),
        prune=Magnitude(),
        schedule=At([1, 2, 3, 4], **amount),
    )
    for _ in range(6):
        plasticity.step(step())
    return model, step


def after(case: str, factor: float, seconds: float) -> dict[str, Any]:
    """Steps of an edited model and of one that was built with the same widths."""
    make, _, shape = CASES[case]
    model, step = edited(case, factor)
    layers = [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)]  # type: ignore[attr-defined]
    widths = [layer.weight.shape[0] for layer in layers[:-1]]
    direct = make(*widths)
    assert [p.shape for p in direct.parameters()] == [p.shape for p in model.parameters()]
    _, _, direct_step = training(direct, shape)
    built, came, ratio = in_turn(direct_step, step, seconds)
    return {"widths": widths, "direct_seconds": built, "edited_seconds": came, "ratio": ratio}


def main() -> None:
    """Measure and write results/controller.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each of the twelve comparisons")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    schedules: dict[str, Schedule] = {
        "periodic": Every(10**9, grow=0.1) | Every(10**9, start=600, prune=0.1),
        "plateau": OnPlateau(patience=10**9, grow=0.1),
    }
    results = {
        "steps without an edit": [
            {"case": case, "schedule": name, **idle(case, schedule, seconds)}
            for case in CASES
            for name, schedule in schedules.items()
        ],
        "steps after edits": [
            {"case": case, "edited by": how, **after(case, factor, seconds)}
            for case in CASES
            for how, factor in (("growth", 2.0), ("pruning", 0.5))
        ],
    }
    for table, rows in results.items():
        for row in rows:
            print(table, row, flush=True)
    write("controller", results)


if __name__ == "__main__":
    main()
