"""Putting an edit of units and of the module tree in place, to stay or to be tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from meristem.axes.map import AxisMap
from meristem.edit.commit import Prepared, Request, prepare
from meristem.edit.deepen import Deepening, DepthChange, deepen
from meristem.edit.indices import Recipe
from meristem.edit.journal import Journal
from meristem.edit.state import ParentMoments
from meristem.edit.succession import Succession, succession
from meristem.edit.widths import begun, check_filled, followed, shapes_of, with_widths


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """An edit of the module tree that is in place.

    Attributes:
        request: what happened to units before, with what the changes of the tree do to them.
        prepared: how.
        axes: the map of before, with the sizes of after that.
        deepening: what happened to the tree.
    """

    request: Request
    prepared: Prepared
    axes: AxisMap
    deepening: Deepening

    def succession(self, after: AxisMap) -> Succession:
        """Which axes go on as which, given the map of now."""
        return succession(self.axes, after, self.deepening.moved, self.deepening.copied, begun(self.request.axes))

    @property
    def followed(self) -> Mapping[str, Recipe]:
        """By the names of now, how units were gathered in the parameters and buffers that stayed."""
        return followed(self.request, self.deepening.moved)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By the names of now, what shapes the parameters and buffers that stayed had before."""
        return shapes_of(self.request, self.deepening.moved)


def rebuild(journal: Journal, request: Request, depth: Sequence[DepthChange]) -> Rebuilt:
    """Gather units, then change the module tree; the journal can take it back.

    Args:
        journal: what is done goes into it.
        request: what happens to units, without what the changes of the tree do to them.
        depth: the changes of the tree.

    Raises:
        EditError: something cannot be done, or a tensor would be left without entries; what is done already is in the
            journal.
    """
    whole = with_widths(request, depth)
    prepared = prepare(whole)
    journal.apply(prepared.steps)
    sizes = {change.axis.index: len(change.gather) for change in whole.changes}
    axes = replace(whole.axes.resized(sizes, {}), history=request.axes.history)
    deepening = deepen(axes, depth, request.optimizers, request.follow, request.state, request.seed)
    journal.apply(deepening.steps())
    check_filled(whole, deepening.moved)
    return Rebuilt(whole, prepared, axes, deepening)


@contextmanager
def rebuilding(axes: AxisMap, change: DepthChange) -> Iterator[Rebuilt]:
    """Put a change of the module tree in place for the duration of a `with` block; then everything is as it was.

    Raises:
        EditError: as `Edit.commit`.
    """
    with Journal() as journal:
        try:
            yield rebuild(journal, Request(axes, (), (), (), 0, ParentMoments()), [change])
        finally:
            journal.rollback()
