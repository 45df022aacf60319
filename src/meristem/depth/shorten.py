"""What a controller removes when it is to shorten a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from meristem.depth.criterion import Cut, DepthCriterion, path_of, removable_blocks
from meristem.depth.deepen import Patterns, matches
from meristem.depth.places import Places
from meristem.errors import EditError

Cuts: TypeAlias = "Callable[[Places], Sequence[Cut]]"
"""Gives the removals that come into question: `removable_blocks` or `removable_branches`, say."""


@dataclass(frozen=True)
class Shorten:
    """Who goes when a schedule asks to shorten: one layer after the other, each the one with the lowest score of then.

        meristem.Plasticity(..., schedule=Every(1000, shorten=1), shorten=Shorten(depth.BranchTaylor()))

    Attributes:
        criterion: scores removals.
        at: patterns of the paths of what may go: of blocks, or of the last modules of branches. Default: every one.
        cuts: which removals come into question. Default: blocks that repeat, of each run all but one.
    """

    criterion: DepthCriterion
    at: Patterns = None
    cuts: Cuts = removable_blocks

    @property
    def requires_closure(self) -> bool:
        """Whether the model must be run to score removals."""
        return self.criterion.requires_closure

    def require(self, places: Places) -> None:
        """Raise `EditError` if `at` matches no module."""
        paths = [path for path, _ in places.model.named_modules() if path]
        if not any(matches(self.at, path) for path in paths):
            found = ", ".join(path_of(cut) for cut in self.cuts(places)) or "(nothing)"
            raise EditError(f"{self.at!r} matches no module that could be removed; possible are: {found}")

    def changes(self, places: Places) -> list[Cut]:
        """Every removal that is possible, in the order of the model."""
        return [cut for cut in self.cuts(places) if matches(self.at, path_of(cut))]
