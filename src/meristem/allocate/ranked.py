"""Ranked: the units of all axes in one ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.allocate.allocator import Allocator, Offer, Per
from meristem.errors import ConfigError


@dataclass(frozen=True)
class Ranked(Allocator):
    """The best newborns of all axes are made, and the lowest-scoring units of all axes removed, wherever they are.

    Growth: newborns are ordered by the decrease of the loss that the growth method predicts for them, and each of the
    best N votes for its axis; `SVoD` has candidates of its own vote. Where fewer newborns are predicted than asked for,
    the rest is divided evenly.

    Pruning and replacement: each unit's score is divided by the mean score of its axis first, since otherwise deep or
    wide layers vanish whole (global pruning); but not if the criterion says that scores are comparable as they are.

    Floors and ceilings hold: an axis never offers more units than its limits let it gain or lose.

    Attributes:
        per: what a unit's gain or score is divided by: 1 ("unit", the default), the number of parameters that one more
            unit of the axis costs today, or its floating-point operations. The amount still counts units; to spend a
            budget of parameters or FLOPs, end the schedule with `.until(parameters=...)` or `.until(flops=...)`.

    Raises:
        ConfigError: asked to divide growth of a method that predicts no gains; or `per` is something else.

    Fails: gains are first-order predictions; summed over many newborns, or over axes that feed each other, they promise
    more than they hold. Grow a little at a time.
    """

    per: Per = "unit"

    def __post_init__(self) -> None:
        if self.per not in ("unit", "parameter", "flop"):
            raise ConfigError(f'Ranked(per=...) must be "unit", "parameter" or "flop", got {self.per!r}')

    @property
    def wants_gains(self) -> bool:
        return True

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        worths = [_by_cost(_worth(offer), offer.cost(self.per)) for offer in offers]
        growing = offers[0].action == "grow"
        offered = [w.sort(descending=growing).values[: o.most] for w, o in zip(worths, offers, strict=True)]
        return best(offered if growing else [-worth for worth in offered], total)


def best(worths: Sequence[Tensor], total: int) -> list[float]:
    """How many of the `total` largest numbers there are in each tensor; of equal ones the first."""
    owners = torch.cat([torch.full((len(worth),), i) for i, worth in enumerate(worths)])
    first = torch.cat(list(worths)).argsort(descending=True, stable=True)[:total]
    return torch.bincount(owners[first], minlength=len(worths)).tolist()


def _worth(offer: Offer) -> Tensor:
    """Newborns' gains; or the scores of an axis, divided by the mean of those that may die if axes differ in scale."""
    if offer.action == "grow":
        return gains_of(offer, "Ranked")
    if offer.scores is None:
        raise ConfigError(f"Ranked orders units by their scores, but {offer.axis.name!r} was offered without")
    if offer.comparable:
        return offer.scores
    mean = offer.scores[offer.scores.isfinite()].mean()
    return offer.scores / mean if mean > 0 else offer.scores


def _by_cost(worth: Tensor, cost: int) -> Tensor:
    """Worth per cost; what costs nothing is worth everything, if it is worth anything."""
    return worth / cost if cost else torch.where(worth > 0, torch.inf, worth)


def gains_of(offer: Offer, asker: str) -> Tensor:
    """The gains of an offer for growth; raises `ConfigError` if there are none."""
    if offer.gains is None:
        raise ConfigError(
            f"{asker} divides growth by the gains of newborns, but {offer.axis.name!r} was offered for "
            f"{'growth' if offer.action == 'grow' else 'pruning'} without; use Separately(grow=..., prune=...) to "
            "divide growth and pruning in different ways"
        )
    return offer.gains
