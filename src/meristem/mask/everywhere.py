"""Global: the best weights of the whole net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import at_least, edge, pieces
from meristem.mask.distribution import Counted


@dataclass(frozen=True)
class Global(Counted):
    """Layers compete: those weights stay whose scores are the largest of all.

    Attributes:
        least: so many weights stay in each layer whatever their scores (default 1), so that none is cut off.

    Fails: scores must be comparable between layers. Those of magnitude follow each layer's scale of initialization,
    and at high sparsity whole layers thin out.
    """

    least: int = 1

    def counts(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        total = round(density * sum(score.numel() for score in scores.values()))
        widest = max((score.dtype for score in scores.values()), key=lambda dtype: dtype.itemsize)
        scores = {name: score.to(widest) for name, score in scores.items()}
        safe = {name: min(self.least, score.numel()) for name, score in scores.items()}
        if sum(safe.values()) > total:
            raise ConfigError(f"a density of {density} leaves {total} weights, fewer than {self.least} for each layer")
        thin: set[str] = set()
        while True:
            free = {name: score for name, score in scores.items() if name not in thin}
            counts = safe | _among(free, total - sum(safe[name] for name in thin))
            below = {name for name in free if counts[name] < safe[name]}
            if not below:
                return {name: counts[name] for name in scores}
            thin |= below  # they have their least; the others compete for what is left


def _among(scores: Mapping[str, Tensor], count: int) -> dict[str, int]:
    """How many of the `count` largest scores each layer has; of equal ones those that come first."""
    if count <= 0:
        return dict.fromkeys(scores, 0)
    views = {name: [(part, None) for part in pieces(score.reshape(-1))] for name, score in scores.items()}
    least = edge([view for parts in views.values() for view in parts], count)
    found = {name: at_least(parts, least) for name, parts in views.items()}
    left = count - sum(above for above, _ in found.values())
    counts = {}
    for name, (above, equal) in found.items():
        taken = min(equal, left)
        counts[name], left = above + taken, left - taken
    return counts
