"""How large the comparison is: one table of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Widths:
    """Options of a net's factory in `meristem.train.models`, at the start and at the end of growth."""

    small: Mapping[str, Any]
    large: Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """The settings of one scale. Growth is `edits` equal steps, equally far apart between `first` and `last`.

    Attributes:
        images: training and test images that are used; None for all.
        shrink: images are averaged over squares of so many pixels.
        epochs, batch_size, learning_rate: of SGD with Nesterov momentum 0.9, weight decay 5e-4 and a cosine.
        evaluations: on the test images, equally far apart.
        edits, first, last: how often widths grow, and when, in shares of the run.
        seeds: how many.
        device: where the nets train.
        nets: by name of the factory, where growth begins and where it ends.
    """

    images: tuple[int | None, int | None]
    shrink: int
    epochs: int
    batch_size: int
    learning_rate: float
    evaluations: int
    edits: int
    seeds: int
    device: str
    nets: Mapping[str, Widths] = field(hash=False)
    first: float = 0.1
    last: float = 0.6


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "cpu": Scale(
            images=(2048, 1000),
            shrink=2,
            epochs=5,
            batch_size=32,
            learning_rate=0.03,
            evaluations=6,
            edits=3,
            seeds=5,
            device="cpu",
            nets={
                "vgg": Widths({"widths": (4, 8), "hidden": 16}, {"widths": (16, 32), "hidden": 64}),
                "resnet": Widths({"width": 16, "inner": 4, "blocks": 2}, {"width": 16, "inner": 16, "blocks": 2}),
            },
        ),
        "full": Scale(
            images=(None, None),
            shrink=1,
            epochs=30,
            batch_size=128,
            learning_rate=0.05,
            evaluations=30,
            edits=8,
            seeds=5,
            device="cuda",
            nets={
                "vgg": Widths({"widths": (16, 32, 64), "hidden": 64}, {"widths": (64, 128, 256), "hidden": 256}),
                "resnet": Widths({"width": 64, "inner": 16, "blocks": 4}, {"width": 64, "inner": 64, "blocks": 4}),
            },
        ),
    }
)
"""`cpu`: all of it in about an hour on two cores. `full`: the data sets as they are, on a GPU."""

DATA = ("fashion_mnist", "cifar10")

NORMS = (True, False)
"""With BatchNorm, and with the same net without it."""
