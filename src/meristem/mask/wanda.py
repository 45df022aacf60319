"""Wanda: weights are worth what they are times what they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from meristem.mask.distribution import check_density
from meristem.mask.inputs import energy
from meristem.mask.nm import check_groups, check_inputs
from meristem.mask.one_shot import OneShot, by_rows, tapped, untapped
from meristem.mask.rows import best
from meristem.signals.contraction import Call


@dataclass(frozen=True, kw_only=True)
class Wanda(OneShot):
    """Pruning by weights and activations: in every row the weights with the largest `|w_ij| * ||x_j||` stay.

    Sun, Liu, Bair, Kolter 2023, arXiv 2306.11695, equation 1; `||x_j||` is the norm of input j over all samples and
    positions. Compared is within the row of one output. For convolutions (derived, not in the paper) every entry has
    the norm of what it reads through its kernel position, padding included.

    Attributes:
        density: the share of each row that stays (default 0.5).
        m: None (default), or the length of groups of neighbouring inputs (at the same position of a kernel) within
            which the share stays, a whole number of each: 4 at a density of 0.5 is 2:4, the pattern of `NM(m=4)`.

    Fails: nothing is updated, so above about half the weights removed it falls behind `SparseGPT`, and both behind
    training with masks.
    """

    density: float = 0.5
    m: int | None = None

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.m is not None:
            check_groups(self.density, self.m)

    def measure(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        return energy(call, function, args, kwargs)

    def pruned(self, name: str, weight: Tensor, total: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        scores = weight.abs().to(total) * total.sqrt()
        taps = 1 if self.m is None else prod(call.contraction.kernel)

        def chosen(matrix: Tensor) -> Tensor:
            """Neighbours are inputs at the same position of the kernel."""
            return untapped(grouped(name, tapped(matrix, taps), self.density, self.m, taps), taps)

        return by_rows(chosen, scores, call), weight


def grouped(name: str, scores: Tensor, density: float, m: int | None, taps: int = 1) -> Tensor:
    """The best of each row, or of every m neighbours in it. Raises `ConfigError` if a row's inputs, for each of `taps`
    positions of a kernel, are no multiple of m."""
    if m is None:
        return best(scores, density)
    check_inputs(name, scores.shape[-1] // taps, m)
    return best(scores.unflatten(-1, (-1, m)), density).flatten(-2).to(torch.bool)
