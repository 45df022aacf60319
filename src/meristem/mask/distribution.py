"""What a distribution is: which weights stay, given how much each is worth and how many may stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import top


class Distribution(ABC):
    """Turns scores into masks. Distributions are frozen dataclasses of their settings."""

    @abstractmethod
    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        """Which weights stay.

        Args:
            scores: by parameter name, how much each weight is worth, in the shape of the weight; -inf never stays.
            density: the share of all weights that stays, above 0 and at most 1.

        Returns:
            bool tensors of the same names, shapes and devices.

        Raises:
            ConfigError: the density cannot be had, or would leave a parameter without weights.
        """

    def passing(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        """As `masks`, at a density that a schedule passes on its way, or in a net whose sizes have changed: where it
        cannot be had exactly the next lower one. Default: `masks`."""
        return self.masks(scores, density)


class Counted(Distribution):
    """A distribution that says how many weights each layer keeps; the best ones do.

    Any other keeps to a pattern, which is lost where a method exchanges weights by counts.
    """

    @abstractmethod
    def counts(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        """How many weights of each layer stay; they add up to `round(density * number of weights)`."""

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        counts = self.counts(scores, check_density(density))
        empty = [name for name, count in counts.items() if not count]
        if empty:
            raise ConfigError(
                f"a density of {density} leaves no weight of {', '.join(empty)} with {self!r}: give a higher one, "
                "leave them out with `parameters=`, or choose densities with PerLayer"
            )
        return self._best(scores, counts)

    def passing(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._best(scores, self.counts(scores, check_density(density)))

    def _best(self, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
        return {name: top(score, counts[name]) for name, score in scores.items()}


def check_density(density: float) -> float:
    """A density. Raises `ConfigError` unless it is above 0 and at most 1."""
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise ConfigError(f"a density is a share of weights above 0 and at most 1, got {density!r}")
    return float(density)
