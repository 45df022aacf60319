"""What a controller inserts when it is to deepen a model, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from meristem.axes.module_path import within
from meristem.depth.arrange import Arrange, duplicated
from meristem.depth.change import Insert
from meristem.depth.chooser import Chooser, Evenly
from meristem.depth.copies import CopyStart
from meristem.depth.inserted import Inserted
from meristem.depth.places import Places
from meristem.errors import EditError

EVENLY = Evenly()

Birth: TypeAlias = Insert | Arrange
"""The insertion of a module, or of a copy of a block behind it."""

Patterns: TypeAlias = str | Sequence[str] | None
"""Glob patterns of names, or None for every one."""


@dataclass(frozen=True)
class Deepen:
    """What is inserted where, when a schedule asks to deepen.

        meristem.Plasticity(..., schedule=OnPlateau(deepen=1), deepen=Deepen(depth.Silent(), at="stage*"))

    With a start of copies, blocks that repeat are copied: the last block of a run of those that `at` chooses, behind
    itself, as AutoGrow does. With a kind of module, it is put at any place where it fits. One layer is inserted after
    the other, each where the chooser says among the places of then.

    Attributes:
        what: a start of copies (`Silent`, `AutoGrow`, `Plain`), or a kind of module (`ZeroResidual`, `Net2Deeper`,
            `ResidualCopy`).
        at: for copies patterns of the paths of blocks ("stage*.1"), for modules of the names of places ("after
            layers.*"). Default: everywhere; but a block that stands alone is not copied if there are blocks in it that
            can be.
        choose: at which of these. Default: evenly.

    Raises:
        EditError: (from the controller, at once) there is no such place.
    """

    what: CopyStart | Inserted
    at: Patterns = None
    choose: Chooser = EVENLY

    @property
    def requires_closure(self) -> bool:
        """Whether the loss must be evaluated to choose."""
        return self.choose.requires_closure

    def require(self, places: Places) -> None:
        """Raise `EditError` if there is no place, saying why not."""
        found, reasons = self._tried(places)
        if not found:
            copies = isinstance(self.what, CopyStart)
            what = f"{'block to copy' if copies else 'place to put it'}{'' if self.at is None else f' at {self.at!r}'}"
            why = "; ".join(reasons[:3]) or "print meristem.depth.places(axes) for what there is"
            raise EditError(f"{self.what} finds no {what}: {why}")

    def changes(self, places: Places) -> list[Birth]:
        """Every insertion of one layer that is possible, in the order of the model."""
        return self._tried(places)[0]

    def _tried(self, places: Places) -> tuple[list[Birth], list[str]]:
        """What is possible, and why other things are not."""
        found: list[Birth] = []
        reasons: list[str] = []
        for name in self._copied(places) if isinstance(self.what, CopyStart) else self._open(places):
            try:
                change = self._change(places, name)
                change.tree(places.axes)
            except EditError as error:
                reasons.append(str(error))
            else:
                found.append(change)
        return (_inner(places, found) if self.at is None else found), reasons

    def _change(self, places: Places, name: str) -> Birth:
        if isinstance(self.what, CopyStart):
            return duplicated(places, name, 1, self.what)
        return Insert(places, name, self.what)

    def _copied(self, places: Places) -> list[str]:
        """The last block of each run that is chosen."""
        runs = (run for run in places.runs if run.frozen is None)
        chosen = ([block[0] for block in run.blocks if any(matches(self.at, path) for path in block)] for run in runs)
        return [blocks[-1] for blocks in chosen if blocks]

    def _open(self, places: Places) -> list[str]:
        """The places that are chosen; where none is said, one for every tensor edge."""
        ways = places.insertions if self.at is None else places.ways
        names = (way.name for way in ways if way.frozen is None and matches(self.at, way.name))
        return list(dict.fromkeys(names))


def _inner(places: Places, found: Sequence[Birth]) -> list[Birth]:
    """Without those that would copy a whole stage: a block that stands alone and in which there are blocks to copy."""
    inside = [places.run(change.at).container for change in found if isinstance(change, Arrange)]

    def stage(change: Birth) -> bool:
        if not isinstance(change, Arrange) or len(places.run(change.at)) > 1:
            return False
        return any(within(path, change.at) for path in inside)

    return [change for change in found if not stage(change)]


def matches(patterns: Patterns, name: str) -> bool:
    """Whether a name is chosen."""
    if patterns is None:
        return True
    return any(fnmatchcase(name, pattern) for pattern in ((patterns,) if isinstance(patterns, str) else patterns))
