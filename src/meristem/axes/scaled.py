"""Which axes change numbers that are not lengths: by the factor if a length explains it, otherwise by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log
from typing import TypeAlias

from meristem.axes.expression import Expression
from meristem.axes.rehearsal import Outcome
from meristem.axes.scalars import changed_lengths, followed
from meristem.axes.solution import Powers
from meristem.axes.space import Space

Rehearse: TypeAlias = "Callable[[Mapping[int, int]], Outcome]"
Place: TypeAlias = "tuple[int, int, tuple[int | str, ...]]"
"""Where a number stands: recording, call, path in its arguments."""
_TRIALS = 32
"""So many rehearsals may be spent; of what is not told apart by then, every axis counts."""


def scaled(
    outcome: Outcome, sizes: Mapping[int, int], space: Space, dims: Iterable[Expression], rehearse: Rehearse
) -> Mapping[int, Powers]:
    """The axes a new size of which changes some number that is not a length, with these numbers.

    Args:
        outcome: of a rehearsal with the new sizes.
        sizes: by representative axis.
        dims: all lengths of the model.
        rehearse: rehearses with some of the new sizes.
    """
    if not outcome.scalars:
        return {}
    lengths = changed_lengths(space, dims, sizes)
    found: dict[int, dict[Place, tuple[tuple[Expression, float], ...]]] = {}
    unexplained: set[Place] = set()
    known: dict[float, set[Expression]] = {}
    for scalar in outcome.scalars:
        if scalar.ratio not in known:
            known[scalar.ratio] = followed(scalar.ratio, lengths)
        follows = known[scalar.ratio]
        axes = _axes(space, follows) & sizes.keys()
        for axis in axes:
            found.setdefault(axis, {})[scalar.place] = tuple(
                (length, _power(scalar.ratio, *lengths[length])) for length in follows if axis in space.roots(length)
            )
        if not axes:
            unexplained.add(scalar.place)
    for axis in _Search(sizes, rehearse).run(unexplained) if unexplained else ():
        found.setdefault(axis, {}).update(dict.fromkeys(unexplained, ()))
    return found


def _power(ratio: float, old: int, new: int) -> float:
    """Which power of a length changed by this factor."""
    return round(4 * log(ratio) / log(new / old)) / 4


def _axes(space: Space, lengths: Iterable[Expression]) -> set[int]:
    return {axis for length in lengths for axis in space.roots(length)}


class _Search:
    """Halves the axes for as long as one of the numbers changes."""

    def __init__(self, sizes: Mapping[int, int], rehearse: Rehearse) -> None:
        self.sizes = sizes
        self.rehearse = rehearse
        self.left = _TRIALS

    def run(self, places: set[Place]) -> set[int]:
        """The axes that change the numbers at some places; none for a number that changes without new sizes."""
        places = places - self._changed([], set())
        return self._among(list(self.sizes), places) if places else set()

    def _among(self, axes: Sequence[int], places: set[Place]) -> set[int]:
        """Of these axes, which together change the numbers at all of these places, those that do so on their own; all
        of them for a number that only changes if several do."""
        if len(axes) == 1:
            return set(axes)
        found: set[int] = set()
        missing = set(places)
        for half in (axes[: len(axes) // 2], axes[len(axes) // 2 :]):
            changed = self._changed(half, places) & places
            missing -= changed
            found |= self._among(half, changed) if changed else set()
        return set(axes) if missing else found

    def _changed(self, axes: Sequence[int], unsure: set[Place]) -> set[Place]:
        """The places whose numbers change with these axes; `unsure` if that can no longer be seen."""
        if self.left == 0:
            return unsure
        self.left -= 1
        outcome = self.rehearse({axis: self.sizes[axis] for axis in axes})
        return {scalar.place for scalar in outcome.scalars} if outcome.passed else unsure
