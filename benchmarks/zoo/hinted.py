"""Torch-Pruning's side with all that its examples for transformers do by hand: the number of heads of every attention
layer is given, and sizes that the model's code holds are corrected afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo import peer

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
"""Attributes with the number of heads."""

SIZES = ("head_dim", "attention_head_size", "head_size")
"""Attributes with the size of a head."""

WIDTHS = ("all_head_size",)
"""Attributes with the product of both."""

TOGETHER, APART = (
    "qkv",
    ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin", "q", "k", "v"),
)
"""Names of the projections: all in one, or one each."""


def prune(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """As without hints, heads kept together."""
    given: dict[nn.Module, int] = {layer: count for _, layer, count, _ in projections(model)}
    peer.prune(model, args, kwargs, given)
    for attention, layer, _, parts in projections(model):
        count, width = given[layer], layer.out_features // parts
        for names, value in ((COUNTS, count), (SIZES, width // count), (WIDTHS, width)):
            for name in names:
                if isinstance(getattr(attention, name, None), int):
                    setattr(attention, name, value)


def projections(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Linear, int, int]]:
    """Every projection with its attention layer, the number of heads, and how many projections it is in one."""
    for module in model.modules():
        count = next((getattr(module, name) for name in COUNTS if isinstance(getattr(module, name, None), int)), None)
        for name in (TOGETHER, *APART):
            layer = getattr(module, name, None)
            if count is not None and isinstance(layer, nn.Linear):
                yield module, layer, count, 3 if name == TOGETHER else 1
