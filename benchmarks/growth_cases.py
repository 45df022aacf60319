"""What the growth benchmark runs on. Imported by both sides, so it needs nothing but torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEARNING_RATE = 0.01
"""Of plain SGD."""


@dataclass(frozen=True)
class Case:
    """A net, a batch, and how it grows.

    Attributes:
        batch: examples in the one batch that statistics are taken on.
        shape: of one example.
        classes: of the answer.
        births: units that every chosen axis is to gain.
    """

    batch: int
    shape: tuple[int, ...]
    classes: int
    births: int

    def data(self) -> tuple[Tensor, Tensor]:
        """Normally distributed inputs and random labels, always the same."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, *self.shape, generator=generator)
        return x, torch.randint(self.classes, (self.batch,), generator=generator)


CASES = {
    "mlp": Case(batch=1024, shape=(784,), classes=10, births=64),
    "conv": Case(batch=128, shape=(3, 32, 32), classes=10, births=16),
    "vit_small": Case(batch=8, shape=(3, 224, 224), classes=1000, births=64),
    "resnet18": Case(batch=32, shape=(3, 64, 64), classes=1000, births=16),
}
"""`mlp`: 784-256-256-10, the first hidden layer grows. `conv`: 3-32-64-128, 3 x 3, padding 1, global pooling and a
linear answer, the 64 channels grow. `vit_small`: timm's, the hidden layers of all MLPs grow. `resnet18`: timm's, every
axis grows for which the method is defined. ReLU everywhere but in `vit_small`."""
