"""Torch-Pruning's side: half of every layer by magnitude, the answer layer named, as all of its examples do."""

from __future__ import annotations

from typing import Any

import torch_pruning as tp  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def prune(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], heads: dict[nn.Module, int] | None = None
) -> None:
    """Build the graph, prune half of everything."""
    tp.pruner.BasePruner(
        model,
        kwargs or args,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=answers(model, args, kwargs),
        output_transform=summed,
        **({"num_heads": heads, "prune_head_dims": True} if heads else {}),
    ).step()


def summed(output: Any) -> Tensor:
    """All outputs as one number, whatever holds them."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return sum((leaf.sum() for leaf in found[1:]), found[0].sum())


def answers(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[nn.Module]:
    """The layers whose results the model returns; else the layer with parameters that runs last."""
    kept: list[tuple[nn.Module, Any]] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [m.register_forward_hook(lambda module, _, result: kept.append((module, result))) for m in leaves]
    output = model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    returned = {leaf.data_ptr() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)}
    found = [
        m for m, result in kept if any(t.data_ptr() in returned for t in tree_leaves(result) if isinstance(t, Tensor))
    ]
    last = [module for module, _ in kept if list(module.parameters())][-1:]
    return found or last
