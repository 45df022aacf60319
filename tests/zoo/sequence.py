"""The zoo's own small recurrent and attention models, each with its table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .row import Row


class Recurrent(nn.Module):
    """A classifier over the last step of a recurrent network."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.rnn = kind(4, 6, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(12 if bidirectional else 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.rnn(x)
        return self.head(hidden[:, -1])


class SelfAttention(nn.Module):
    """nn.MultiheadAttention between two linear layers, without a residual connection."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(mixed)


class Encoder(nn.Module):
    """nn.TransformerEncoderLayer between two linear layers."""

    def __init__(self, norm_first: bool = False, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 5)
        self.layer = nn.TransformerEncoderLayer(width, heads, 20, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)).mean(dim=1))


class EinsumAttention(nn.Module):
    """Attention from bare parameters, whose sizes no Python code repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(6, 3, 4) / 3)
        self.key = nn.Parameter(torch.randn(6, 3, 4) / 3)
        self.value = nn.Parameter(torch.randn(6, 3, 5) / 3)
        self.out = nn.Parameter(torch.randn(3, 5, 7) / 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (torch.einsum("bti,ihd->bhtd", x, w) for w in (self.query, self.key, self.value))
        weights = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", query, key) * 0.5, dim=-1)
        return torch.einsum("bhqk,bhkd,hdo->bqo", weights, value, self.out)


class CodeSizedAttention(nn.Module):
    """Attention as most repositories write it: sizes in attributes, one matrix for queries, keys and values."""

    def __init__(self, width: int = 8, heads: int = 3, head_size: int = 4) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.stem = nn.Linear(6, width)
        self.qkv = nn.Linear(width, 3 * heads * head_size)
        self.project = nn.Linear(heads * head_size, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / math.sqrt(self.head_size)).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        return self.head(x + self.project(mixed))


class DividedAttention(nn.Module):
    """Attention that knows its number of heads, and computes their size from the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(6, width) for _ in range(3))
        self.project = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)


class GroupedQuery(nn.Module):
    """Grouped-query attention, two query heads for one key head."""

    def __init__(self, key_heads: int = 3, head_size: int = 4) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_size = 2 * key_heads, key_heads, head_size
        width = key_heads * head_size
        self.query, self.key, self.value = nn.Linear(6, 2 * width), nn.Linear(6, width), nn.Linear(6, width)
        self.project = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, self.head_size).transpose(1, 2)
        key = self.key(x).view(batch, length, self.key_heads, self.head_size).transpose(1, 2)
        value = self.value(x).view(batch, length, self.key_heads, self.head_size).transpose(1, 2)
        key, value = (t.repeat_interleave(self.heads // self.key_heads, dim=1) for t in (key, value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_size))


def steps(size: int):
    """Random sequences: (batch, 5 + batch, size), so that another batch size is another length too."""
    return lambda batch: (torch.randn(batch, 5 + batch, size),)


def recurrent_table(gates: int, layers: int, bidirectional: bool) -> dict[str, str]:
    """An RNN's hidden size is one axis over all its layers and directions; each layer reads both directions."""
    table = {"head.weight": f"5, {2 if bidirectional else 1}*h", "head.bias": "5"}
    for layer in range(layers):
        inputs = "4" if layer == 0 else "2*h" if bidirectional else "h"
        for suffix in ("", "_reverse") if bidirectional else ("",):
            end = f"l{layer}{suffix}"
            table |= {
                f"rnn.weight_ih_{end}": f"{gates}*h, {inputs}",
                f"rnn.weight_hh_{end}": f"{gates}*h, h",
                f"rnn.bias_ih_{end}": f"{gates}*h",
                f"rnn.bias_hh_{end}": f"{gates}*h",
            }
    return table


ENCODER_TABLE = {
    "stem.weight": "h*d, 6", "stem.bias": "h*d", "layer.self_attn.in_proj_weight": "3*h*d, h*d",
    "layer.self_attn.in_proj_bias": "3*h*d", "layer.self_attn.out_proj.weight": "h*d, h*d",
    "layer.self_attn.out_proj.bias": "h*d", "layer.linear1.weight": "u, h*d", "layer.linear1.bias": "u",
    "layer.linear2.weight": "h*d, u", "layer.linear2.bias": "h*d", "layer.norm1.weight": "h*d",
    "layer.norm1.bias": "h*d", "layer.norm2.weight": "h*d", "layer.norm2.bias": "h*d",
    "head.weight": "5, h*d", "head.bias": "5",
}  # fmt: skip

RECURRENT = tuple(
    Row(f"{kind.__name__.lower()}_{layers}{'_bidirectional' if both else ''}",
        lambda kind=kind, layers=layers, both=both: Recurrent(kind, layers, both), steps(4), small=True,
        table=recurrent_table(gates, layers, both))
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3))
    for layers, both in ((1, False), (2, False), (2, True))
)  # fmt: skip

ATTENTION_TABLE = {
    "stem.weight": "h*d, 6", "stem.bias": "h*d", "attention.in_proj_weight": "3*h*d, h*d",
    "attention.in_proj_bias": "3*h*d", "attention.out_proj.weight": "h*d, h*d", "attention.out_proj.bias": "h*d",
    "head.weight": "5, h*d", "head.bias": "5",
}  # fmt: skip

CODE_SIZED_TABLE = {
    "stem.weight": "s, 6", "stem.bias": "s", "qkv.weight": "3*h*d, s", "qkv.bias": "3*h*d", "project.weight": "s, h*d",
    "project.bias": "s", "head.weight": "5, s", "head.bias": "5",
}  # fmt: skip

GROUPED_TABLE = {
    "query.weight": "k*r*d, 6", "query.bias": "k*r*d", "key.weight": "k*d, 6", "key.bias": "k*d",
    "value.weight": "k*d, 6", "value.bias": "k*d", "project.weight": "5, k*r*d", "project.bias": "5",
}  # fmt: skip

SQUARE_ROWS = (
    Row("square_multihead_attention", lambda: SelfAttention(16, 4), steps(6), small=True, family="transformer",
        table=ATTENTION_TABLE),
    Row("square_encoder_layer", lambda: Encoder(False, 16, 4), steps(6), small=True, family="transformer",
        table=ENCODER_TABLE),
    Row("square_code_sized_attention", lambda: CodeSizedAttention(8, 4, 4), steps(6), small=True, family="transformer",
        table=CODE_SIZED_TABLE),
    Row("square_divided_attention", lambda: DividedAttention(16, 4), steps(6), small=True, family="transformer",
        table={"query.weight": "h*d, 6", "query.bias": "h*d", "key.weight": "h*d, 6", "key.bias": "h*d",
               "value.weight": "h*v, 6", "value.bias": "h*v", "project.weight": "5, h*v", "project.bias": "5"}),
    Row("square_grouped_query", lambda: GroupedQuery(4, 4), steps(6), small=True, family="transformer",
        table=GROUPED_TABLE),
)  # fmt: skip
"""As many heads as each head has features: two axes of the same size, which no number tells apart."""

SEQUENCE_ROWS = (
    *RECURRENT,
    *SQUARE_ROWS,
    Row("multihead_attention", SelfAttention, steps(6), small=True, family="transformer", table=ATTENTION_TABLE),
    Row("encoder_layer", Encoder, steps(6), small=True, family="transformer", table=ENCODER_TABLE),
    Row("encoder_layer_norm_first", lambda: Encoder(True), steps(6), small=True, family="transformer",
        table=ENCODER_TABLE),
    Row("einsum_attention", EinsumAttention, steps(6), small=True, family="transformer",
        table={"query": "6, h, d", "key": "6, h, d", "value": "6, h, v", "out": "h, v, 7"}),
    Row("code_sized_attention", CodeSizedAttention, steps(6), small=True, family="transformer",
        table=CODE_SIZED_TABLE),
    Row("grouped_query", GroupedQuery, steps(6), small=True, family="transformer", table=GROUPED_TABLE),
)  # fmt: skip
