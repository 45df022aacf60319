"""The kinds of axis that growth methods are asked about: small reference nets, plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

_WIDTH = 8
_IMAGE = (4, 3, 4, 4)
_FEATURES = (16, 12)
_TOKENS = (4, 5, 12)


@dataclass(frozen=True)
class Kind:
    """One kind of axis.

    Attributes:
        name: short, for the head of a column.
        meaning: what it is, for the legend.
        build: makes a net that has such an axis.
        shape: of an input, the batch first.
        axis: the name of the axis, or what `axes[...]` understands.
    """

    name: str
    meaning: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    axis: str

    def net(self) -> nn.Module:
        """The net, always with the same weights; the global random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build()


class Joined(nn.Module):
    """Two convolutions side by side, read by a third; (n, 3, h, w) to (n, 4, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = _conv(3, _WIDTH), _conv(3, 4)
        self.head = _conv(_WIDTH + 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1).relu())


class Stream(nn.Module):
    """A residual stream: everything adds to it and reads it through what `norm` makes; `inner` is on the way back."""

    def __init__(self, stem: nn.Module, norm: Callable[[], nn.Module], inner: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.inner, self.last, self.head = stem, norm(), inner, norm(), head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.inner(self.norm(x))
        return self.head(self.last(x))


class Gated(nn.Module):
    """SwiGLU; (n, 12) to (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(12, _WIDTH), nn.Linear(12, _WIDTH), nn.Linear(_WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(silu(self.gate(x)) * self.value(x))


class Attention(nn.Module):
    """Self-attention, each projection on its own; (n, tokens, 12) to (n, tokens, 12)."""

    def __init__(self, heads: int = 2, size: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(12, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """An LSTM; (n, tokens, 12) to (n, tokens, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, _WIDTH, batch_first=True), nn.Linear(_WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def _conv(before: int, after: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, groups=groups)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(12, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 5))


def _between(*between: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Two convolutions with something between them."""
    return lambda: nn.Sequential(_conv(3, _WIDTH), *(make() for make in between), nn.ReLU(), _conv(_WIDTH, 4))


def _flattened() -> nn.Module:
    return nn.Sequential(_conv(3, _WIDTH), nn.ReLU(), nn.Flatten(), nn.Linear(_WIDTH * 16, 5))


def _grouped() -> nn.Module:
    return nn.Sequential(_conv(3, _WIDTH), nn.ReLU(), _conv(_WIDTH, _WIDTH, groups=2), nn.ReLU(), _conv(_WIDTH, 4))


def _transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(3, _WIDTH, 2, 2), nn.ReLU(), nn.ConvTranspose2d(_WIDTH, 4, 2, 2))


def _residual() -> nn.Module:
    inner = nn.Sequential(nn.ReLU(), _conv(_WIDTH, _WIDTH))
    return Stream(_conv(3, _WIDTH), _batch_norm, inner, _conv(_WIDTH, 4))


def _depthwise() -> nn.Module:
    return nn.Sequential(_conv(3, _WIDTH), nn.ReLU(), _conv(_WIDTH, _WIDTH, groups=_WIDTH), _conv(_WIDTH, 4))


def _batch_norm() -> nn.Module:
    return nn.BatchNorm2d(_WIDTH)


def _group_norm() -> nn.Module:
    return nn.GroupNorm(2, _WIDTH)


def _layer_norm() -> nn.Module:
    return _normalized(lambda: nn.LayerNorm(_WIDTH))


def _rms_norm() -> nn.Module:
    return _normalized(lambda: nn.RMSNorm(_WIDTH, eps=1e-6))


def _normalized(norm: Callable[[], nn.Module]) -> nn.Module:
    inner = nn.Sequential(nn.Linear(_WIDTH, 16), nn.GELU(), nn.Linear(16, _WIDTH))
    return Stream(nn.Linear(12, _WIDTH), norm, inner, nn.Linear(_WIDTH, 5))


KINDS: dict[str, tuple[Kind, ...]] = {
    "Layers": (
        Kind("linear", "features between two linear layers", _linear, _FEATURES, "0"),
        Kind("conv", "channels between two convolutions", _between(), _IMAGE, "0"),
        Kind("flattened", "channels that are flattened and read by a linear layer", _flattened, _IMAGE, "0"),
        Kind("grouped", "channels within each group of a grouped convolution", _grouped, _IMAGE, "2[1]"),
        Kind("depthwise", "channels through a depthwise convolution", _depthwise, _IMAGE, "0"),
        Kind("transposed", "channels between two transposed convolutions", _transposed, _IMAGE, "0"),
    ),
    "Normalized and joined": (
        Kind("BatchNorm", "channels behind BatchNorm", _between(_batch_norm), _IMAGE, "0"),
        Kind("residual", "channels of a residual stream with BatchNorm", _residual, _IMAGE, "stem"),
        Kind("joined", "channels that are concatenated with others", Joined, _IMAGE, "left"),
        Kind("groups", "whole groups of GroupNorm", _between(_group_norm), _IMAGE, "0[0]"),
        Kind("in groups", "channels within the groups of GroupNorm", _between(_group_norm), _IMAGE, "0[1]"),
        Kind("LayerNorm", "features of a residual stream behind LayerNorm", _layer_norm, _FEATURES, "stem"),
        Kind("RMSNorm", "features of a residual stream behind RMSNorm", _rms_norm, _FEATURES, "stem"),
    ),
    "Gates, attention, recurrence": (
        Kind("gated", "hidden features of a gated unit (SwiGLU)", Gated, _FEATURES, "gate"),
        Kind("heads", "attention heads", Attention, _TOKENS, "query[0]"),
        Kind("query size", "size of the queries and keys of a head", Attention, _TOKENS, "query[1]"),
        Kind("value size", "size of the values of a head", Attention, _TOKENS, "value[1]"),
        Kind("LSTM", "hidden features of an LSTM", Recurrent, _TOKENS, "lstm"),
    ),
}
"""Kinds of axis by the table that they stand in."""
