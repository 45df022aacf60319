"""Distributions that know (outputs, inputs, *kernel), for weights that are laid out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.mask.arrangement import Arrangements
from meristem.mask.distribution import Counted, Distribution

Choice = Callable[[Mapping[str, Tensor], float], dict[str, Tensor]]


@dataclass(frozen=True, repr=False, eq=False)
class Turned(Distribution):
    """A distribution that sees every weight as (outputs, inputs, *kernel).

    Attributes:
        inner: what it stands for.
        arrangements: how weights are laid out.
    """

    inner: Distribution
    arrangements: Arrangements

    def __repr__(self) -> str:
        return repr(self.inner)

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._turned(self.inner.masks, scores, density)

    def passing(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._turned(self.inner.passing, scores, density)

    def _turned(self, choose: Choice, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        known = self.arrangements
        masks = choose({name: known.of(name).seen(score) for name, score in scores.items()}, density)
        return {name: known.of(name).back(mask, scores[name]) for name, mask in masks.items()}


def turned(distribution: Distribution, arrangements: Arrangements) -> Distribution:
    """A distribution that sees weights as (outputs, inputs, *kernel), however they are laid out. What counts need not
    know."""
    return distribution if isinstance(distribution, (Counted, Turned)) else Turned(distribution, arrangements)
