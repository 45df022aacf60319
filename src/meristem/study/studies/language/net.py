"""A small GPT over characters: pre-normalized blocks with learned positions, an ordinary PyTorch module."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from meristem.train.experiment import Strict


class Shape(Strict):
    """How large a net is.

    Attributes:
        depth: blocks.
        width: of the stream. Heads have a fixed size, so their number follows, as do the hidden units (4 a feature).
    """

    depth: int = Field(default=2, ge=1)
    width: int = Field(default=32, ge=1)


class Attention(nn.Module):
    """Causal attention with heads of one size, as many as the layers have room for."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of the stream, shape (batch, positions, width), likewise."""
        parts = [part(x).unflatten(2, (-1, self.size)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        return self.out(scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two layers, each behind a normalization and added to the stream."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, size)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of the stream, shape (batch, positions, width), likewise."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Characters to scores of the next one."""

    def __init__(self, symbols: int, context: int, shape: Shape, size: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(symbols, shape.width)
        self.positions = nn.Embedding(context, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, size) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, symbols, bias=False)
        self._start(shape.depth)

    def forward(self, x: Tensor) -> Tensor:
        """Of indices of characters, shape (batch, positions), to shape (batch, positions, symbols)."""
        x = self.characters(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def _start(self, depth: int) -> None:
        """Tables have a standard deviation of 1, layers of one over the root of the fan-in, and those that add to the
        stream less, the more there are (as in GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                fan_in = 1 if name.startswith(("characters", "positions")) else parameter.shape[1]
                adds = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=1 / math.sqrt(fan_in * (2 * depth if adds else 1)))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
