"""Ranked: the units of all axes in one ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator, Offer
from meristem.errors import ConfigError


@dataclass(frozen=True)
class Ranked(Allocator):
    """The lowest-scoring units of all axes are removed, wherever they are (global pruning).

    Each unit's score is divided by the mean score of its axis first, since otherwise deep or wide layers vanish
    whole. Floors hold: an axis never offers more units than its limits let go. For pruning only: growth methods that
    predict no gain per newborn have nothing to rank.

    Raises:
        ConfigError: asked to divide growth.
    """

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        offered = [_relative(offer).sort().values[: offer.most] for offer in offers]
        owners = torch.cat([torch.full((len(scores),), i) for i, scores in enumerate(offered)])
        lowest = torch.cat(offered).argsort(stable=True)[:total]
        return torch.bincount(owners[lowest], minlength=len(offers)).tolist()


def _relative(offer: Offer) -> Tensor:
    """Scores of an axis divided by their mean over the units that may be removed."""
    if offer.scores is None:
        raise ConfigError(
            "Ranked orders units by their scores, which growth does not have; "
            "use Separately(grow=Uniform(), prune=Ranked()) or another allocator for growth"
        )
    mean = offer.scores[offer.scores.isfinite()].mean()
    return offer.scores / mean if mean > 0 else offer.scores
