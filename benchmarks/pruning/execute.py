"""Trains the nets, has each side prune them, fine-tunes what comes back, under equal conditions."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import meristem
from benchmarks.pair import Worker
from benchmarks.pruning.nets import build
from benchmarks.pruning.settings import CRITERIA, OWN, REMOVED, SCALES, Scale
from meristem.train.data import DataSet
from meristem.train.record import write_json


@dataclass(frozen=True)
class Task:
    """One net of one seed, pruned by one side."""

    scale: str
    net: str
    seed: int
    side: str
    criterion: str
    removed: float

    def path(self, runs: Path) -> Path:
        """Where its result lies."""
        name = f"{self.net}-{self.seed}-{self.side}-{self.criterion}-{self.removed}.json"
        return runs / self.scale / name.replace(" ", "_")


@dataclass(frozen=True)
class Images:
    """CIFAR-10 at 16 x 16, standardized."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, data: DataSet, scale: Scale) -> Images:
        mean, deviation = data.channel_statistics()

        def part(images: Tensor, labels: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
            return avg_pool2d((images[:count].float() - mean) / deviation, 2), labels[:count]

        counts = scale.images
        return cls(
            part(data.train_images, data.train_labels, counts[0]), part(data.test_images, data.test_labels, counts[1])
        )


def tasks(scale: str) -> Iterator[Task]:
    """Everything that is run, seed by seed."""
    for seed in range(SCALES[scale].seeds):
        for net in SCALES[scale].nets:
            for removed in REMOVED:
                for criterion in CRITERIA:
                    if net != "vit" or criterion != "batch norm scale":
                        yield Task(scale, net, seed, "peer", criterion, removed)
                        yield Task(scale, net, seed, "ours", criterion, removed)
                yield Task(scale, net, seed, "ours", OWN, removed)


def execute(task: Task, images: Images, runs: Path, worker: Worker) -> dict[str, Any]:
    """One run, into its file."""
    scale, folder = SCALES[task.scale], runs / task.scale
    base, accuracy = trained(task, images, folder)
    batches = list(shuffled(images.train, scale.batch_size, task.seed))[: scale.batches]
    example = batches[0][0]
    request, result = folder / "request.pt", folder / "result.pt"
    torch.save(
        {
            "net": task.net,
            "options": dict(scale.nets[task.net]),
            "state": base.state_dict(),
            "example": example,
            "batches": batches,
            "criterion": task.criterion,
            "removed": wanted(task, runs),
            "seed": task.seed,
            "result": str(result),
        },
        request,
    )
    answer = worker.run("prune", str(request))
    found: dict[str, Any] = {**asdict(task), "base_accuracy": accuracy, **answer}
    if "error" not in answer:
        found |= judged(base, torch.load(result, weights_only=False), task, images, example)
    write_json(task.path(runs), found)
    return found


def wanted(task: Task, runs: Path) -> float:
    """The share of operations that is to go: for our side what the peer's side of the same comparison removed, where
    there is one, since shares of channels rarely give what was asked for."""
    path = replace(task, side="peer").path(runs)
    rival = json.loads(path.read_text()) if task.side == "ours" and path.is_file() else {}
    return 1 - rival["flops"] if "flops" in rival else task.removed


def judged(base: nn.Module, model: nn.Module, task: Task, images: Images, example: Tensor) -> dict[str, Any]:
    """What a pruned net is worth, before and after fine-tuning; speed is that of batches of the training size."""
    scale, full, axes = SCALES[task.scale], meristem.trace(base, example), meristem.trace(model, example)
    pairs = [(cpu_seconds(base, example), cpu_seconds(model, example)) for _ in range(5)]
    found: dict[str, Any] = {
        "flops": axes.flops() / full.flops(),
        "parameters": axes.parameter_count() / full.parameter_count(),
        "speed_up": statistics.median(before / after for before, after in pairs),
        "accuracy": evaluated(model, images),
    }
    train(model, images, scale.tuning, scale.batch_size, scale.learning_rate / 4, task.seed)
    return {**found, "tuned_accuracy": evaluated(model, images)}


@torch.no_grad()
def cpu_seconds(model: nn.Module, example: Tensor, passes: int = 5) -> float:
    """CPU time of some forward passes on one thread, which does not depend on what else the machine does."""
    model(example)
    start = time.process_time()
    for _ in range(passes):
        model(example)
    return time.process_time() - start


def trained(task: Task, images: Images, folder: Path) -> tuple[nn.Module, float]:
    """The trained net, from its file if there is one, and its accuracy."""
    scale, path = SCALES[task.scale], folder / f"{task.net}-{task.seed}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(task.seed)
    model = build(task.net, dict(scale.nets[task.net]))
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(model, images, scale.epochs, scale.batch_size, scale.learning_rate, task.seed)
        torch.save(model.state_dict(), path)
    return model.eval(), evaluated(model, images)


def train(model: nn.Module, images: Images, epochs: int, batch_size: int, rate: float, seed: int) -> None:
    """AdamW with a cosine, images mirrored at random."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(images.train[1]) // batch_size))
    torch.manual_seed(seed)
    model.train()
    for epoch in range(epochs):
        for x, y in shuffled(images.train, batch_size, seed + 1000 * epoch):
            mirrored = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
            cross_entropy(model(mirrored), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def shuffled(part: tuple[Tensor, Tensor], size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in an order that follows from the seed."""
    order = torch.randperm(len(part[1]), generator=torch.Generator().manual_seed(seed))
    for chosen in order[: len(order) // size * size].split(size):
        yield part[0][chosen], part[1][chosen]


def evaluated(model: nn.Module, images: Images) -> float:
    """Share of test images that a net gets right."""
    model.eval()
    x, y = images.test
    with torch.no_grad():
        right = [(model(a).argmax(1) == b).sum() for a, b in zip(x.split(500), y.split(500), strict=True)]
    return int(torch.stack(right).sum()) / len(y)
