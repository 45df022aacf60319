"""What a `Monitor` costs: `python -m benchmarks.diagnose`, about seven minutes, one thread.

A net with newborns, so that cohorts are compared, takes ten steps with a monitor that samples one of them, and ten
without, in turn; it is the same net, since two copies of one differ by some percent. Wall time, and the CPU time of the
process, which other processes on the machine disturb less; and the cost of a sample alone, as the difference between
the steps of one side. A sample costs a millisecond or two however small the net is: the smallest shows where that
weighs most. A monitor makes records of several samples at once, so times are means over as many turns, and medians of
these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import meristem
from benchmarks.pair import write
from meristem.diagnose import Monitor
from meristem.diagnose.monitor import WAITING
from meristem.train.models import mlp, resnet, vgg

EVERY = 10

Make = Callable[[], nn.Module]


class Block(nn.Module):
    """Pre-norm attention and a hidden layer four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Two blocks over 64 symbols."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 2, length: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(64, width), nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.place))).transpose(1, 2)


def images(channels: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """A batch."""
    return torch.randn(samples, channels, size, size), torch.randint(10, (samples,))


def text(samples: int) -> tuple[Tensor, Tensor]:
    """A batch of 64 symbols each."""
    return torch.randint(64, (samples, 64)), torch.randint(64, (samples, 64))


CASES: dict[str, tuple[Make, Callable[[], tuple[Tensor, Tensor]]]] = {
    "small mlp": (partial(mlp, (1, 28, 28), 10, (256, 256)), partial(images, 1, 28, 128)),
    "mlp": (partial(mlp, (1, 28, 28), 10, (512, 512)), partial(images, 1, 28, 256)),
    "vgg": (partial(vgg, (3, 32, 32), 10), partial(images, 3, 32, 64)),
    "resnet": (partial(resnet, (3, 32, 32), 10), partial(images, 3, 32, 64)),
    "transformer": (Transformer, partial(text, 32)),
}


def training(make: Make, batch: tuple[Tensor, Tensor]) -> tuple[meristem.AxisMap, Callable[[], None]]:
    """A net with newborns on its first axes that have activity, and one training step of it."""
    torch.manual_seed(0)
    model, (x, y) = make(), batch
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    axes = meristem.trace(model, x[:2])
    probed = Monitor().begin(axes)
    probed.close()
    edit = meristem.Edit(axes, [optimizer])
    for axis in [axis for axis in axes.editable if axis.name not in probed.undefined][:2]:
        edit.grow(axis.name, max(1, axis.size // 8))
    after = edit.commit().axes

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return after, step


def compare(case: str, seconds: float) -> dict[str, Any]:
    """Ten steps with and without a monitor, taking turns."""
    make, batches = CASES[case]
    axes, step = training(make, batches())
    never = torch.iinfo(torch.int64).max
    ages = {
        entry["axis"]: torch.tensor(
            [never] * entry["before"] + [0] * (axes.by_name[entry["axis"]].size - entry["before"])
        )
        for entry in axes.history[-1]["axes"]
    }
    monitor = Monitor(EVERY).begin(axes, ages=ages)

    steps: list[list[float]] = [[] for _ in range(EVERY)]

    def with_monitor() -> None:
        for place in range(EVERY):
            before = time.thread_time()
            step()
            monitor.step()
            steps[place].append(time.thread_time() - before)

    def without() -> None:
        for _ in range(EVERY):
            step()

    times = in_turn(without, with_monitor, seconds)
    monitor.close()
    return {
        "case": case,
        "axes": len(monitor.records[-1].axes),
        "units": sum(axis.size for axis in monitor.records[-1].axes.values()),
        "cohorts": sum(len(axis.cohorts) for axis in monitor.records[-1].axes.values()),
        **times,
        **sample_cost(steps),
    }


def sample_cost(steps: Sequence[Sequence[float]]) -> dict[str, float]:
    """What one sample costs, from the CPU times of steps by their place in a turn: hooks are opened at the end of the
    last step but one, and the last one is heard. Lower quartiles, which other processes disturb least, of means over as
    many turns as it takes until records are made.
    """
    *plain, opens, heard = (statistics.quantiles(means(times), n=4)[0] for times in steps)
    bare = statistics.median(plain)
    cost = opens + heard - 2 * bare
    return {"sample_seconds": cost, "ratio_of_sample": round(1 + cost / (EVERY * bare), 4)}


def means(times: Sequence[float]) -> list[float]:
    """Over as many turns as it takes until a monitor makes records of its samples; all of them if there are fewer."""
    size = min(WAITING, len(times) // 2)
    return [statistics.fmean(times[start : start + size]) for start in range(0, len(times) - size + 1, size)]


def in_turn(first: Callable[[], None], second: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Times of both sides in alternating order and their ratios: medians of means, see `means`."""
    turns: list[tuple[tuple[float, float], tuple[float, float]]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(turns) < 20:
        if len(turns) % 2:
            one, two = timed(first), timed(second)
        else:
            two, one = timed(second), timed(first)
        turns.append((one, two))
    kept = turns[len(turns) // 10 :]
    wall, watched_wall = (means([sides[side][0] for sides in kept]) for side in (0, 1))
    cpu, watched_cpu = (means([sides[side][1] for sides in kept]) for side in (0, 1))
    return {
        "turns": len(kept),
        "bare_seconds": statistics.median(wall) / EVERY,
        "with_monitor_seconds": statistics.median(watched_wall) / EVERY,
        "ratio": round(statistics.median(two / one for one, two in zip(wall, watched_wall, strict=True)), 4),
        "ratio_cpu": round(statistics.median(two / one for one, two in zip(cpu, watched_cpu, strict=True)), 4),
    }


def timed(job: Callable[[], None]) -> tuple[float, float]:
    """How long it takes once, in seconds of wall and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure and write results/diagnose.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75.0, help="time for each of the cases")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), help="only these; nothing is written")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cases: Sequence[str] = chosen.cases or list(CASES)
    results = []
    for case in cases:
        results.append(compare(case, chosen.seconds))
        print(results[-1], flush=True)
    if not chosen.cases:
        write("diagnose", results)


if __name__ == "__main__":
    main()
