"""Small models of every kind of coupling that the tests of this folder use, each with an example input in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two linear blocks on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.up = nn.Linear(8, 10)
        self.down = nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(torch.tanh(self.up(x))))


class Attention(nn.Module):
    """A pre-norm attention block with a separate size for values' heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 2, 4
        self.stem = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for f in (self.q, self.k, self.v))
        a = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.o(a.transpose(-3, -2).flatten(-2))
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(x))))


def mlp() -> nn.Module:
    """Linear layers with BatchNorm between."""
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3))


def convolutions() -> nn.Module:
    """Convolution, BatchNorm, depthwise convolution, flatten, linear."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5, 6)),
    "convolutions": (convolutions, (5, 2, 6, 6)),
    "residual": (Residual, (5, 6)),
    "attention": (Attention, (5, 4, 6)),
}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    """A model with every parameter and statistic away from its special values, and an example."""
    torch.manual_seed(seed)
    make, shape = MODELS[name]
    model = make().to(dtype)
    for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        tensor.data.add_(0.1 * torch.rand_like(tensor))
    return model, torch.randn(shape, dtype=dtype)
