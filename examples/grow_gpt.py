"""Grow a small character-level GPT on a text, such as tiny Shakespeare, while it trains.

    pip install tqdm
    python examples/grow_gpt.py --data tinyshakespeare.txt

The model starts with narrow feed-forward layers and two attention heads a layer; both grow. Their newborns are chosen
among four times as many candidates by the gradients that these would get, and preserve the function.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from tqdm import tqdm

import meristem

LENGTH, STREAM, HEAD_SIZE = 64, 96, 16


class Block(nn.Module):
    """Attention and a feed-forward layer; (n, characters, STREAM) to the same shape."""

    def __init__(self, heads: int = 2, width: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(STREAM), nn.LayerNorm(STREAM)
        self.qkv, self.out = nn.Linear(STREAM, 3 * heads * HEAD_SIZE), nn.Linear(heads * HEAD_SIZE, STREAM)
        self.up, self.down = nn.Linear(STREAM, width), nn.Linear(width, STREAM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, 2))
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Scores of the next character, (n, characters, vocabulary), for characters by number (n, characters)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(vocabulary, STREAM), nn.Parameter(0.02 * torch.randn(LENGTH, STREAM))
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.norm, self.head = nn.LayerNorm(STREAM), nn.Linear(STREAM, vocabulary)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(text) + self.position)))


def main() -> float:
    """Train, print every size that the model had, and return its last loss on the last tenth of the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text file")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    torch.manual_seed(0)

    text = options.data.read_text(encoding="utf-8")
    letters = sorted(set(text))
    numbers = torch.tensor([letters.index(letter) for letter in text])
    train, test = numbers[: len(text) * 9 // 10], numbers[len(text) * 9 // 10 :]

    model = GPT(len(letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss_on(part: Tensor, starts: Tensor) -> Tensor:
        window = part[starts + torch.arange(LENGTH + 1)]
        return cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    def batch_loss() -> Tensor:
        return loss_on(train, torch.randint(len(train) - LENGTH, (32, 1)))

    plasticity = meristem.Plasticity(
        model,
        optimizer,
        train[None, :LENGTH],
        grow=meristem.grow.Candidates(),
        schedule=meristem.schedule.Every(options.steps // 10, end=options.steps // 2, grow=0.3),
        axes=lambda axis: axis.name.endswith(".up") or axis.kind == "heads",
    )
    table = Table("step", "heads", "feed-forward", "parameters", "test loss", title=options.data.name)

    def note(step: int) -> float:
        with torch.no_grad():
            loss = float(loss_on(test, torch.arange(0, len(test) - LENGTH, LENGTH)[:400, None]))
        heads = " ".join(str(axis.size) for axis in plasticity.axes if axis.kind == "heads")
        widths = " ".join(str(axis.size) for axis in plasticity.axes if axis.name.endswith(".up"))
        table.add_row(str(step), heads, widths, f"{plasticity.axes.parameter_count():,}", f"{loss:.3f}")
        return loss

    note(0)
    for step in tqdm(range(1, options.steps + 1)):
        loss = batch_loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if plasticity.step(loss, batch_loss):
            note(step)
    loss = note(options.steps)
    Console().print(table)
    return loss


if __name__ == "__main__":
    main()
