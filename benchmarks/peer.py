"""What the benchmarks measure of Torch-Pruning, with the hints that its examples give for transformers."""

from __future__ import annotations

from typing import Any

import torch_pruning as tp  # pyright: ignore[reportMissingImports]
from torch import nn


def trace(model: nn.Module, example: dict[str, Any]) -> Any:
    """The dependency graph."""
    return tp.DependencyGraph().build_dependency(
        model, example_inputs=inputs(example), output_transform=first, forward_fn=None
    )


def job(model: nn.Module, example: dict[str, Any]) -> dict[str, Any]:
    """Build the graph, prune half of everything but the answer layer by group magnitude."""
    before = sum(p.numel() for p in model.parameters())
    pruner = tp.pruner.BasePruner(
        model,
        inputs(example),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=answers(model),
        num_heads=heads(model),
        prune_head_dims=True,
        output_transform=first,
    )
    pruner.step()
    after = sum(p.numel() for p in model.parameters())
    return {"parameters": [before, after]}


def inputs(example: dict[str, Any]) -> Any:
    """Images by position, tokens by name."""
    return example.get("x", example)


def first(output: Any) -> Any:
    """The logits."""
    return output if not hasattr(output, "logits") else output.logits.sum()


def answers(model: nn.Module) -> list[nn.Module]:
    """The answer layer, which Torch-Pruning shrinks unless it is named."""
    named = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    return [named[name] for name in ("fc", "classifier", "head", "lm_head") if isinstance(named.get(name), nn.Linear)]


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """The number of heads of every projection, as in its examples for ViT, BERT and Llama."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        for name in ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj"):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear):
                found[layer] = count_heads(module, layer)
    return found


def count_heads(attention: Any, layer: nn.Linear) -> int:
    """Query heads, or key heads for the narrower projections of grouped queries."""
    if hasattr(attention, "num_heads"):
        return attention.num_heads
    if hasattr(attention, "num_attention_heads"):
        return attention.num_attention_heads
    return layer.out_features // attention.head_dim
