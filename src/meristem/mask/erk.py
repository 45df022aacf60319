"""ERK: sparser where layers are large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import shared
from meristem.mask.distribution import Counted


@dataclass(frozen=True)
class ERK(Counted):
    """Erdos-Renyi-Kernel: `density_l = epsilon * (sum of dims / product of dims) ** power`, at most 1.

    Mocanu et al. 2018, arXiv 1707.04780, extended to kernels by Evci et al., ICML 2020, arXiv 1911.11134. Epsilon is
    solved so that the total is right; a layer that would exceed 1 is dense, and epsilon is solved again.

    Attributes:
        power: 1 (default); 0 is `Uniform`.
        first_dense: whether the first layer stays dense whatever its share.

    Fails: it needs more FLOPs than `Uniform` at the same number of weights: early convolutions stay denser.
    """

    power: float = 1.0
    first_dense: bool = False

    def counts(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        densities = self.densities(shapes, density)
        sizes = [prod(shape) for shape in shapes.values()]
        wishes = [densities[name] * size for name, size in zip(shapes, sizes, strict=True)]
        return dict(zip(shapes, shared(round(density * sum(sizes)), wishes, sizes), strict=True))

    def densities(self, shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
        """The density of each layer, before counts are made whole. Raises `ConfigError` if dense layers need more."""
        sizes = {name: prod(shape) for name, shape in shapes.items()}
        raw = {name: (sum(shape) / sizes[name]) ** self.power for name, shape in shapes.items()}
        dense = {next(iter(shapes))} if self.first_dense else set()
        while True:
            left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
            if left < 0:
                raise ConfigError(f"the dense layers {sorted(dense)} alone have more weights than a density {density}")
            share = sum(raw[name] * sizes[name] for name in shapes if name not in dense)
            epsilon = left / share if share else 0.0
            over = {name for name in shapes if name not in dense and raw[name] * epsilon > 1}
            if not over:
                return {name: 1.0 if name in dense else raw[name] * epsilon for name in shapes}
            most = max(raw[name] for name in over)
            dense |= {name for name in over if raw[name] == most}
