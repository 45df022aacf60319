"""From demands for layers to changes of the module tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meristem.axes import AxisMap
from meristem.depth import Deepen, Places, Shorten
from meristem.depth import places as find_places
from meristem.edit import Edit
from meristem.edit.deepen import DepthChange
from meristem.plasticity.choice import Choice
from meristem.schedule import Budget, Demand
from meristem.signals import View


class Layers:
    """How demands for layers are carried out, one layer at a time.

    Args:
        deepen: what is inserted and where, or None.
        shorten: who goes, or None.
    """

    def __init__(self, deepen: Deepen | None, shorten: Shorten | None) -> None:
        self.deepen = deepen
        self.shorten = shorten
        self._places: Places | None = None

    def require(self, axes: AxisMap) -> None:
        """Refuse at once what could only fail later. Raises `EditError` if nothing can be inserted, or removed."""
        for part in (self.deepen, self.shorten):
            if part is not None:
                part.require(self._of(axes))

    def plan(self, view: View, demand: Demand, choice: Choice) -> tuple[DepthChange, ...]:
        """The layer that is inserted or removed; nothing if none is left or fits into the budget.

        Args:
            view: the model today.
            demand: for one layer.
            choice: the axes that may be edited, whose units count for a budget.
        """
        places = self._of(view.axes)
        if demand.action == "deepen" and self.deepen is not None:
            found: Sequence[DepthChange] = self.deepen.changes(places)
            order = _order(-self.deepen.choose.scores(view, found)) if found else []
            fitting = (found[number] for number in order if _fits(view.axes, found[number], demand.budget, choice))
            return tuple(change for change in [next(fitting, None)] if change is not None)
        assert self.shorten is not None, "the controller has made sure"
        if demand.budget is not None and demand.budget.met(view.axes, view.axes.sizes, choice.axes(view.axes)):
            return ()
        cuts = self.shorten.changes(places)
        return tuple(self.shorten.criterion.weakest(cuts, view.closure)) if cuts else ()

    def _of(self, axes: AxisMap) -> Places:
        """The places of the model as it is now."""
        if self._places is None or self._places.axes is not axes:
            self._places = find_places(axes)
        return self._places


def _order(scores: Tensor) -> list[int]:
    return torch.argsort(scores, stable=True).tolist()


def _fits(axes: AxisMap, change: DepthChange, budget: Budget | None, choice: Choice) -> bool:
    """Whether the model is within every bound after an insertion: which is made, traced, and taken back."""
    if budget is None:
        return True
    found = Edit(axes).depth(change).preview()
    assert found.map is not None, "the preview of a depth edit has one"
    assert found.succession is not None, "the preview of a depth edit has one"
    chosen = choice.foreseen(found.map, found.succession)
    bounds = (
        (budget.parameters, found.parameters[1]),
        (budget.flops, found.flops[1]),
        (budget.bytes, found.bytes[1]),
        (budget.units, sum(axis.size for axis in chosen)),
    )
    return all(bound is None or size <= bound for bound, size in bounds)
