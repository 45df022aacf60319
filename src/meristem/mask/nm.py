"""NM: so many of every few neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.distribution import Distribution, check_density
from meristem.mask.rows import best


@dataclass(frozen=True)
class NM(Distribution):
    """Of every `m` neighbouring inputs the best `density * m` stay, a whole number.

    With a density of 0.5 and m = 4 this is 2:4, which GPUs from compute capability 8.0 on multiply faster: Mishra et
    al. 2021, arXiv 2104.08378. Kernel positions are separate: neighbours are input channels, as for `Wanda(m=4)` and
    `SparseGPT(m=4)`. Inputs are along the second dimension; `Sparse` gives weights that are laid out otherwise as they
    would be, and asks for an example where that is not known (see `arrangement.Arrangements`).

    Methods that exchange weights refuse it; the others keep it, through structural edits too (see `Method.pattern`). A
    schedule that passes other densities has the next lower multiple of 1 / m, at least one weight of each group.

    Attributes:
        m: the length of a group (default 4). The inputs of every weight must be a multiple of it.

    Raises:
        ConfigError: the density that is asked for is no multiple of 1 / m, or the inputs of a weight none of m.

    Fails: a group of important neighbours loses some all the same.
    """

    m: int = 4

    def __post_init__(self) -> None:
        if self.m < 2:
            raise ConfigError(f"NM(m=...) is the length of a group, at least 2, got {self.m!r}")

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        check_groups(density, self.m)
        return self._masks(scores, density)

    def passing(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._masks(scores, max(1, math.floor(check_density(density) * self.m + 1e-9)) / self.m)

    def _masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        for name, score in scores.items():
            if score.dim() < 2:
                raise ConfigError(f"{name} has the shape {tuple(score.shape)}, without inputs; leave it out")
            check_inputs(name, score.shape[1], self.m)
        return {name: self._mask(score, density) for name, score in scores.items()}

    def _mask(self, scores: Tensor, density: float) -> Tensor:
        last = scores.movedim(1, -1)
        return best(last.unflatten(-1, (-1, self.m)), density).flatten(-2).movedim(-1, 1)


def check_inputs(name: str, inputs: int, m: int) -> None:
    """Raise `ConfigError` unless the inputs of a weight are a multiple of m."""
    if inputs % m:
        raise ConfigError(
            f"{name} has {inputs} inputs, no multiple of m={m}, and groups of {m} need a multiple of it; leave it out "
            "with `parameters=`"
        )


def check_groups(density: float, m: int) -> None:
    """Raise `ConfigError` unless a density is a whole number of every m weights, at least one."""
    count = check_density(density) * m
    if abs(count - round(count)) > 1e-9 * m or round(count) < 1:
        raise ConfigError(
            f"of every {m} neighbours a density of {density} would leave {count:g}; give a multiple of 1/{m}, such as "
            f"{max(1, round(count)) / m:g}"
        )
