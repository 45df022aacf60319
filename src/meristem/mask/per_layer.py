"""PerLayer: densities that are given layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.axes.pattern import matches
from meristem.errors import ConfigError
from meristem.mask.best import shared
from meristem.mask.distribution import Counted, check_density

NEAR = 5e-4
"""A density that is given for the whole net is right if it is right to three digits after the point."""


@dataclass(frozen=True)
class PerLayer(Counted):
    """Every layer keeps the share of its weights that is given for it.

        RigL(density=0.28, end=7_500, distribution=PerLayer({"head.weight": 1.0, "blocks.*": 0.25}))

    The method's `density` has to be what they come to over the whole net; where it is not, the error says it. On the
    way to it, in a schedule, every layer has the same share of its own way from dense behind it; in a net whose sizes
    have changed all densities give way alike. (Ours, not from a paper.)

    Attributes:
        densities: by glob pattern of parameter names; of several that match the first one counts. A layer that was
            inserted later, and matches none, has that of the whole net.

    Raises:
        ConfigError: a density is not above 0 and at most 1; at the start also: a layer without one, a pattern that
            matches no layer, or another density of the whole net.

    Fails: what one layer is given says nothing about how much it needs; `Global` and `SNFS` let layers compete.
    """

    densities: Mapping[str, float]

    def __post_init__(self) -> None:
        for density in self.densities.values():
            check_density(density)

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        check_density(density)
        matched = [self._pattern(name) for name in scores]
        if None in matched or set(matched) != set(self.densities):
            missing = [name for name, pattern in zip(scores, matched, strict=True) if pattern is None]
            idle = [pattern for pattern in self.densities if pattern not in matched]
            raise ConfigError(
                f"PerLayer needs a density for each masked parameter: {missing or 'none'} has none, and "
                f"{idle or 'no pattern'} matches none; parameters are {', '.join(scores)}"
            )
        total = self._total(scores, density)
        if abs(total - density) > NEAR:
            raise ConfigError(
                f"the densities of PerLayer come to {total:.4f} over all weights: give density={total:.4f}"
            )
        return super().masks(scores, density)

    def counts(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        sizes = [score.numel() for score in scores.values()]
        given, total = [self._given(name, density) for name in scores], self._total(scores, density)
        if density > total:
            given = [share + (1 - share) * (density - total) / (1 - total) for share in given]
        wishes = [share * size for share, size in zip(given, sizes, strict=True)]
        return dict(zip(scores, shared(round(density * sum(sizes)), wishes, sizes), strict=True))

    def _pattern(self, name: str) -> str | None:
        return next((pattern for pattern in self.densities if matches(name, pattern)), None)

    def _given(self, name: str, otherwise: float) -> float:
        pattern = self._pattern(name)
        return otherwise if pattern is None else self.densities[pattern]

    def _total(self, scores: Mapping[str, Tensor], otherwise: float) -> float:
        sizes = {name: score.numel() for name, score in scores.items()}
        return sum(self._given(name, otherwise) * size for name, size in sizes.items()) / sum(sizes.values())
