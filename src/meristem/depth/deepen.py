"""What a controller inserts when it is to deepen a model, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from meristem.axes import pattern
from meristem.axes.module_path import within
from meristem.depth.addition import alike
from meristem.depth.arrange import Arrange, duplicated
from meristem.depth.change import Insert
from meristem.depth.chooser import Chooser, Evenly
from meristem.depth.copies import CopyStart
from meristem.depth.inserted import Inserted
from meristem.depth.joined import Joined
from meristem.depth.parallel import AddBranch, ConcatBranch
from meristem.depth.places import Places
from meristem.errors import EditError

EVENLY = Evenly()

What: TypeAlias = CopyStart | Inserted | Joined
"""A kind of what is inserted."""

Birth: TypeAlias = Insert | Arrange | AddBranch | ConcatBranch
"""The insertion of a module, of a copy of a block behind it, or of a branch beside a module."""

Patterns: TypeAlias = str | Sequence[str] | None
"""Glob patterns of names, or None for every one."""


@dataclass(frozen=True)
class Deepen:
    """What is inserted where, when a schedule asks to deepen.

        meristem.Plasticity(..., schedule=OnPlateau(deepen=1), deepen=Deepen(depth.Silent(), at="stage*"))

    With a start of copies, blocks that repeat are copied: the last block of a run of those that `at` chooses, behind
    itself, as AutoGrow does. With a kind of module, it is put at any place where it fits. With a kind of branch, it is
    put beside any module where there is a place for it. With several of these the chooser decides between them, too.
    One layer is inserted after the other, each where the chooser says among the places of then.

    Attributes:
        what: a start of copies (`Silent`, `AutoGrow`, `Plain`), a kind of module (`ZeroResidual`, `Net2Deeper`,
            `ResidualCopy`), a kind of branch (`Added`, `Appended`), or several of them.
        at: for copies patterns of the paths of blocks ("stage*.1"), for modules of the names of places ("after
            layers.*"), for branches of the paths of modules. Default: everywhere; but a block that stands alone is not
            copied if there are blocks in it that can be.
        choose: at which of these. Default: evenly.

    Raises:
        EditError: (from the controller, at once) there is no such place.
    """

    what: What | Sequence[What]
    at: Patterns = None
    choose: Chooser = EVENLY

    def __post_init__(self) -> None:
        if isinstance(self.what, Sequence):
            object.__setattr__(self, "what", tuple(self.what))

    @property
    def requires_closure(self) -> bool:
        """Whether the loss must be evaluated to choose."""
        return self.choose.requires_closure

    def require(self, places: Places) -> None:
        """Raise `EditError` if one of the kinds finds no place, saying why not."""
        for kind in self._kinds:
            found, reasons = self._tried(places, kind)
            if not found:
                copies = isinstance(kind, CopyStart)
                what = (
                    f"{'block to copy' if copies else 'place to put it'}{'' if self.at is None else f' at {self.at!r}'}"
                )
                why = "; ".join((reasons or _frozen(places, kind))[:3]) or "the model has none"
                raise EditError(f"{kind} finds no {what}: {why}")

    def changes(self, places: Places) -> list[Birth]:
        """Every insertion of one layer that is possible, kind by kind, in the order of the model."""
        return [change for kind in self._kinds for change in self._tried(places, kind)[0]]

    @property
    def _kinds(self) -> Sequence[What]:
        return self.what if isinstance(self.what, Sequence) else (self.what,)

    def _tried(self, places: Places, kind: What) -> tuple[list[Birth], list[str]]:
        """What is possible, and why other things are not."""
        found: list[Birth] = []
        reasons: list[str] = []
        for name in self._names(places, kind):
            try:
                change = _change(places, kind, name)
                change.tree(places.axes)
            except EditError as error:
                reasons.append(str(error))
            else:
                found.append(change)
        return (_inner(places, found) if self.at is None else found), reasons

    def _names(self, places: Places, kind: What) -> list[str]:
        """The places that are chosen; where none is said, one for every tensor edge or every pair of them."""
        if isinstance(kind, CopyStart):
            return self._copied(places)
        if isinstance(kind, Joined):
            beside = places.sums if kind.join == "add" else places.concatenations
            chosen = beside if self.at is not None else [ways[0] for ways in alike(beside)]
            names = [place.name for place in chosen if place.frozen is None]
        else:
            ways = places.insertions if self.at is None else places.ways
            names = [way.name for way in ways if way.frozen is None]
        return list(dict.fromkeys(name for name in names if matches(self.at, name)))

    def _copied(self, places: Places) -> list[str]:
        """The last block of each run that is chosen."""
        runs = (run for run in places.runs if run.frozen is None)
        chosen = ([block[0] for block in run.blocks if any(matches(self.at, path) for path in block)] for run in runs)
        return [blocks[-1] for blocks in chosen if blocks]


def _frozen(places: Places, kind: What) -> list[str]:
    """Why all that might be a place for a kind is none."""
    if isinstance(kind, Joined):
        found = places.sums if kind.join == "add" else places.concatenations
    else:
        found = places.runs if isinstance(kind, CopyStart) else places.insertions
    return [f"{place.name}: {place.frozen}" for place in found if place.frozen is not None]


def _change(places: Places, kind: What, name: str) -> Birth:
    if isinstance(kind, CopyStart):
        return duplicated(places, name, 1, kind)
    return kind.change(places, name) if isinstance(kind, Joined) else Insert(places, name, kind)


def name_of(birth: Birth) -> str:
    """Where something is born, for people."""
    if isinstance(birth, Arrange):
        return f"copy of {birth.at}"
    if isinstance(birth, Insert):
        return birth.at
    return f"{'added to' if isinstance(birth, AddBranch) else 'appended to'} {birth.module}"


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
    return pattern.matches(name, patterns)
