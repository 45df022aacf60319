"""Whether a pruned model answers like the original whose dropped entries are zero. Knows tensors, no side.

Which entries were dropped is read off the values: before it is pruned, a model gets values of which no two are equal.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.zoo.linear import linear
from tests.zoo.row import Row

SILENT = 1e-100
"""What dropped entries are multiplied by: zero for every purpose, without 0 / 0 in weights that are normalized."""

TOLERANCE = 1e-8
"""Largest difference that is rounding, relative to the largest value."""


def subject(row: Row) -> nn.Module:
    """A model of the zoo in float64, no two values of a tensor alike."""
    model = row.model(torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in floating(model).values():
            tensor += 1e-6 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    return model


def verdict(row: Row, original: nn.Module, pruned: nn.Module, compare: bool) -> str:
    """`right`, `nothing removed`, or what is wrong; `runs` where it is not compared with the silenced original."""
    before, after = floating(original), floating(pruned)
    if set(before) != set(after):
        return f"wrong: {sorted(set(before) ^ set(after))[0]} came or went"
    if all(before[name].shape == after[name].shape for name in before):
        return "nothing removed"
    silenced = copy.deepcopy(original)
    for name, tensor in floating(silenced).items():
        stays = found_in(tensor, after[name])
        if stays is None:
            return f"wrong: values of {name} changed"
        with torch.no_grad():
            tensor[~stays] *= SILENT
    with linear(pruned.eval(), silenced):
        for batch in row.batches:
            moved = drift(answers(pruned, row, batch), answers(silenced, row, batch))
            if moved is None:
                return "wrong: the answer has another shape"
            if compare and not moved <= TOLERANCE:
                return f"wrong: the answer differs by {moved:.1e}"
    return "right" if compare else "runs"


def floating(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics by name, tied ones once."""
    running = {name: b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    return {name: t for name, t in {**dict(model.named_parameters()), **running}.items() if t.is_floating_point()}


def found_in(before: Tensor, after: Tensor) -> Tensor | None:
    """Which entries of a tensor are still there: bool, in its shape; None if the other has values of its own."""
    values, order = before.detach().flatten().sort()
    given = after.detach().flatten()
    places = torch.searchsorted(values, given).clamp_max(max(0, len(values) - 1))
    if len(values) == 0 or not bool((values[places] == given).all()):
        return None if len(given) else torch.zeros_like(before, dtype=torch.bool)
    stays = torch.zeros(len(values), dtype=torch.bool)
    stays[order[places]] = True
    return stays.view(before.shape)


def answers(model: nn.Module, row: Row, batch: int) -> list[Tensor]:
    """The floating-point outputs of a model on one batch."""
    args, kwargs = row.example(batch)
    with torch.no_grad():
        result = model(*args, **kwargs)
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def drift(after: list[Tensor], before: list[Tensor]) -> float | None:
    """The largest difference relative to the largest value, over all outputs; None if shapes differ."""
    if [a.shape for a in after] != [b.shape for b in before]:
        return None
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(after, before, strict=True))
