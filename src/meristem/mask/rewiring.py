"""Dropping some weights and growing others: what dynamic sparse training has in common."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import places_of, top
from meristem.mask.distribution import Distribution
from meristem.mask.magnitude import Magnitude
from meristem.mask.random import Random
from meristem.mask.scene import Plan, Scene


def random_start(scene: Scene, distribution: Distribution, density: float) -> Plan:
    """Weights at random places, as many as a distribution says."""
    return Plan(masks=distribution.masks({name: Random().of(scene, name) for name in scene.masks}, density))


def kept(mask: Tensor, worth: Tensor, count: int) -> Tensor:
    """Of the weights that are there the `count` that are worth most; all if there are fewer."""
    return top(worth, min(count, int(mask.count_nonzero())), mask)


def grown(mask: Tensor, worth: Tensor, count: int) -> Tensor:
    """A mask with `count` weights more, among all that are not in it those that are worth most."""
    room = mask.numel() - int(mask.count_nonzero())
    return top(worth, min(count, room), ~mask).logical_or_(mask)


def outside(mask: Tensor, count: int, source: torch.Generator) -> Tensor:
    """The places of `count` different weights that are not in a mask, at random, all alike; all if there are fewer."""
    room = mask.numel() - int(mask.count_nonzero())
    if 4 * count >= room or 8 * room <= mask.numel():  # few are free: among all of them
        free = places_of(~mask)
        return free[torch.randperm(room, generator=source)[:count].to(free.device)]
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:  # most places are free: drawn until enough of them are
        drawn = torch.randint(mask.numel(), (16 + 10 * (count - len(found)),), generator=source)
        found = torch.cat([found, drawn[~mask.take(drawn.to(mask.device)).cpu()]])
        values, first = found.sort(stable=True)
        repeated = torch.zeros_like(found, dtype=torch.bool)
        repeated[first[1:]] = values[1:] == values[:-1]
        found = found[~repeated]  # each where it came first
    return found[:count].to(mask.device)


def exchanged(mask: Tensor, drop: Tensor, grow: Tensor, target: int, turnover: int) -> Tensor:
    """A mask of `target` weights, of which `turnover` were exchanged.

    Kept are the `target - turnover` that are there and have the highest `drop` score; grown those of all others with
    the highest `grow` score, among them those just dropped. A mask with more or fewer weights than its target (after a
    structural edit) comes back to it.
    """
    stay = kept(mask, drop, target - turnover)
    return grown(stay, grow, target - int(stay.count_nonzero()))


def cosine(step: int, end: int, first: float, last: float = 0.0) -> float:
    """`last + (first - last) / 2 * (1 + cos(pi * step / end))`: from `first` at 0 to `last` at `end` and after."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(step, end) / end))


def cubic(step: int, start: int, end: int, first: float, last: float) -> float:
    """`last + (first - last) * (1 - (step - start) / (end - start)) ** 3`, constant before and after."""
    share = min(max((step - start) / (end - start), 0.0), 1.0)
    return last + (first - last) * (1 - share) ** 3


def magnitudes(scene: Scene) -> Mapping[str, Tensor]:
    """`|w|` of weights that are there, -1 for those that are not."""
    return {name: Magnitude().of(scene, name).masked_fill_(~mask, -1.0) for name, mask in scene.masks.items()}


def check_fraction(what: str, fraction: float) -> None:
    """Raise `ConfigError` unless it is from 0 to 1."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"{what} is a share from 0 to 1, got {fraction!r}")
