"""Patterns of masks, and how they are kept when structural edits move weights about."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.mask.best import top
from meristem.mask.distribution import Distribution
from meristem.mask.following import uniform


def has(pattern: Distribution, name: str, mask: Tensor) -> bool:
    """Whether a mask is one that a distribution chooses if it is asked for as many weights."""
    density = int(mask.count_nonzero()) / mask.numel()
    return density > 0 and torch.equal(pattern.passing({name: mask.float()}, density)[name], mask)


def settled(
    pattern: Distribution, name: str, weight: Tensor, mask: Tensor, fresh: Tensor | None, density: float, key: object
) -> Tensor:
    """A mask with its pattern, after an edit that moved it. It changes no more than it has to: nothing if it has it.

    Of newborn weights as many stand first as the density says, the largest; then come incumbents by their size. So
    whatever a growth method began newborns with stays where there is room for it. Where too few are there, weights that
    were not come at random, from zero.

    Args:
        pattern: what is to be kept.
        name: of the parameter.
        weight: its values now.
        mask: which weights are there; newborn ones are in it or not.
        fresh: which are newborn, or None.
        density: of the parameter.
        key: of all that is random.

    Raises:
        ConfigError: the shape cannot have the pattern.
    """
    size = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).abs()
    size = size / (1 + size)
    drawn = uniform(weight.shape, key).to(size)
    worth = torch.where(mask, 4 + size, drawn)
    if fresh is not None:
        new = torch.where(size > 0, 1 + size, drawn)
        first = top(new.masked_fill(~fresh, -torch.inf), round(density * int(fresh.count_nonzero())))
        worth = torch.where(fresh, 2 + new + 4 * first, worth)
    return pattern.passing({name: worth}, density)[name]
