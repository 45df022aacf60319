"""Fixed: given masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.distribution import Counted, Distribution
from meristem.mask.method import Method
from meristem.mask.pattern import has
from meristem.mask.scene import Plan, Scene


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixed(Method):
    """Masks from elsewhere, kept while training goes on: of a one-shot method, or what is zero in a sparse model.

    Attributes:
        masks: by parameter name; None (default) for the weights that are not zero. A parameter without one is dense.
        distribution: the pattern that they have (`NM`, `Rows`), to be kept through structural edits. None (default):
            they have none.

    Raises:
        ConfigError: a mask has not that pattern, or is of a parameter that is not masked.
    """

    masks: Mapping[str, Tensor] | None = None
    distribution: Distribution | None = None

    @property
    def pattern(self) -> Distribution | None:
        return None if isinstance(self.distribution, Counted) else self.distribution

    def start(self, scene: Scene) -> Plan:
        masks = self._masks(scene)
        for name, mask in masks.items():
            if self.pattern is not None and not has(scene.over(self.pattern), name, mask):
                raise ConfigError(f"the mask of {name} has not the pattern of {self.pattern!r} that was promised")
        return Plan(masks=masks)

    def _masks(self, scene: Scene) -> dict[str, Tensor]:
        if self.masks is None:
            return {name: weight != 0 for name, weight in scene.weights.items()}
        unknown = [name for name in self.masks if name not in scene.masks]
        if unknown:
            raise ConfigError(f"a mask is given for {unknown[0]!r}, which is not among the masked parameters")
        return {**scene.masks, **self.masks}
