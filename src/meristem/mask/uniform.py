"""Uniform: the same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import shared
from meristem.mask.distribution import Counted


@dataclass(frozen=True)
class Uniform(Counted):
    """Every layer keeps the same share of its weights; counts are whole and add up exactly.

    Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134, section 3.

    Attributes:
        first_dense: whether the first layer stays dense, as there; the others then share what is left.

    Fails: small layers (a head of ten classes) become bottlenecks at high sparsity; `ERK` gives them more.
    """

    first_dense: bool = False

    def counts(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        sizes = {name: score.numel() for name, score in scores.items()}
        first = next(iter(sizes)) if self.first_dense else None
        total = round(density * sum(sizes.values()))
        rest = sum(size for name, size in sizes.items() if name != first)
        left = total - (sizes[first] if first is not None else 0)
        if left < 0 or (left > 0 and not rest):
            raise ConfigError(f"the first layer alone has more weights than a density of {density} leaves: {total}")
        wishes = [float(size) if name == first else size * left / rest for name, size in sizes.items()]
        return dict(zip(sizes, shared(total, wishes, list(sizes.values())), strict=True))
