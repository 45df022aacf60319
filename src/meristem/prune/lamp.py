"""LAMP for units: scores relative to all that are at least as large on their axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.errors import EditError
from meristem.prune.wrapper import Ranking
from meristem.signals import View


@dataclass(frozen=True)
class LAMP(Ranking):
    """`s_u ** 2 / sum s_v ** 2` over the units v of the axis with `s_v >= s_u`, s the scores of another criterion:
    every axis has a unit with score 1, so that a global ranking never removes a whole one.

    Lee, Park, Mo, Ahn, Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, arXiv 2010.07611,
    which is for single weights with s their magnitudes; for units it is derived. Of equal scores those of
    later units are taken as larger. The order on an axis is that of the other criterion.

    Raises:
        EditError: (when scoring) the other criterion gave a negative score.
    """

    def scores(self, view: View, axis: Axis) -> Tensor:
        scores = self.criterion.scores(view, axis).to("cpu", torch.float64)
        if bool((scores < 0).any()):
            raise EditError(f"LAMP needs scores >= 0; {type(self.criterion).__name__} gave {float(scores.min())}")
        mortal = torch.where(scores < torch.inf, scores, 0.0)
        order = mortal.argsort(stable=True)
        squares = mortal[order].square()
        rest = squares.flip(0).cumsum(0).flip(0)
        found = torch.empty_like(scores)
        found[order] = torch.where(rest > 0, squares / rest.clamp(min=torch.finfo(rest.dtype).tiny), 0.0)
        return torch.where(scores < torch.inf, found, torch.inf)
