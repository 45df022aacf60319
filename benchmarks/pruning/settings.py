"""How large the comparison is: one table of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Scale:
    """The settings of one scale.

    Attributes:
        images: training and test images of CIFAR-10 that are used; None for all.
        epochs, tuning: of training, and of fine-tuning after pruning, by AdamW with a cosine.
        batch_size: of both.
        learning_rate: of training; fine-tuning begins with a quarter of it.
        batches: how many criteria look at that need data.
        seeds: how many.
        nets: options by the name of the net.
    """

    images: tuple[int | None, int | None]
    epochs: int
    tuning: int
    batch_size: int
    learning_rate: float
    batches: int
    seeds: int
    nets: Mapping[str, Mapping[str, Any]] = field(hash=False)


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "cpu": Scale(
            images=(2000, 1000),
            epochs=8,
            tuning=1,
            batch_size=50,
            learning_rate=2e-3,
            batches=4,
            seeds=3,
            nets={
                "vgg11_bn": {"width": 12},
                "resnet20": {"width": 6},
                "vit": {"width": 48, "heads": 4, "depth": 3},
            },
        ),
        "full": Scale(
            images=(None, None),
            epochs=60,
            tuning=10,
            batch_size=128,
            learning_rate=2e-3,
            batches=16,
            seeds=5,
            nets={
                "vgg11_bn": {"width": 64},
                "resnet20": {"width": 16},
                "vit": {"width": 192, "heads": 6, "depth": 6},
            },
        ),
    }
)
"""`cpu`: all of it in less than half an hour on one core. `full`: all images, nets of the usual widths."""

REMOVED = (0.3, 0.5, 0.7)
"""The shares of the floating-point operations that go."""

CRITERIA = ("random", "L1", "L2", "batch norm scale", "Taylor", "FPGM", "group norm")
"""Those that both sides have. Both take the same share of every axis."""

OWN = "Taylor on gates, ranked by FLOPs, compensated"
"""What `meristem.recipes.shrink` does by default; ours only."""
