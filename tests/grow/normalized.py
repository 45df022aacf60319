"""Small models whose weights are computed from parameters: normalized, bent, multiplied."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.zoo.row import Row

norm = parametrizations.weight_norm


class Tanh(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.tanh(weight)


class Scaled(nn.Module):
    """Every entry times another parameter."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(rows, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Masked(nn.Module):
    """Every entry times a constant; and a low-rank update, as LoRA adds one."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(rows, columns).round())
        self.up, self.down = nn.Parameter(torch.randn(rows, 2)), nn.Parameter(torch.randn(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return -(weight * self.mask) / 2 + self.up @ self.down


class ByHand(nn.Linear):
    """Weight norm as a user may write it, over the inputs."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight / self.weight.norm(dim=1, keepdim=True), self.bias)


def _through(parametrization: nn.Module) -> nn.Module:
    layer = nn.Linear(12, 8)
    parametrize.register_parametrization(layer, "weight", parametrization)
    return layer


def _dense(middle: Callable[[], nn.Module], first: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> Callable:
    return lambda: nn.Sequential(first(nn.Linear(6, 12)), nn.ReLU(), middle(), nn.ReLU(), nn.Linear(8, 5))


def _vocoder() -> nn.Module:
    """Weight norm over dimension 0, which is the input of a transposed convolution (HiFi-GAN, arXiv 2010.05646)."""
    return nn.Sequential(
        norm(nn.Conv1d(3, 6, 3)), nn.LeakyReLU(), norm(nn.ConvTranspose1d(6, 4, 4, 2)), nn.LeakyReLU(),
        norm(nn.Conv1d(4, 2, 3)),
    )  # fmt: skip


def _row(name: str, build: Callable[[], nn.Module], *shape: int) -> Row:
    return Row(name, build, lambda batch: (torch.randn(batch, *shape),), small=True)


MODELS = {
    row.name: row
    for row in (
        _row("weight norm", _dense(lambda: norm(nn.Linear(12, 8)), norm), 6),
        _row("norm of columns", _dense(lambda: norm(nn.Linear(12, 8), dim=1), lambda x: norm(x, dim=1)), 6),
        _row("norm of all", _dense(lambda: norm(nn.Linear(12, 8), dim=None)), 6),
        _row("vocoder", _vocoder, 3, 9),
        _row("spectral norm", _dense(lambda: parametrizations.spectral_norm(nn.Linear(12, 8))), 6),
        _row("by hand", _dense(lambda: ByHand(12, 8)), 6),
        _row("tanh", _dense(lambda: _through(Tanh())), 6),
        _row("product", _dense(lambda: _through(Scaled(8, 12))), 6),
        _row("linear", _dense(lambda: _through(Masked(8, 12))), 6),
    )
}
