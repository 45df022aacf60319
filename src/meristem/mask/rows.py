"""Rows: the same density in every output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.mask.distribution import Distribution, check_density


@dataclass(frozen=True)
class Rows(Distribution):
    """Every row, that is every output, keeps its best `round(density * entries)`, at least one.

    What Wanda compares within: Sun et al. 2023, arXiv 2306.11695. Outputs are along the first dimension; `Sparse` gives
    weights that are laid out otherwise as they would be, and asks for an example where that is not known (see
    `arrangement.Arrangements`). Of experts that are chosen by number each has outputs of its own.
    """

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        check_density(density)
        return {name: best(s.flatten(1), density).reshape(s.shape) for name, s in scores.items()}


def best(scores: Tensor, density: float) -> Tensor:
    """Of each row of a matrix the `round(density * columns)` best, at least one; of equal ones the first."""
    count = max(1, round(density * scores.shape[-1]))
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
