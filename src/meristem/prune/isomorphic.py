"""Isomorphic ranking: axes of the same form are ranked together, and no others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.prune.wrapper import Ranking
from meristem.signals import Statistic, View


def form(axes: AxisMap, axis: Axis) -> tuple[object, ...]:
    """What axes have in common that are ranked together: the kind of their units, and of each tensor in which they
    occur the roles, the number of dimensions, the sizes from the third on (kernels), and what it is."""
    places = []
    for place in axes.places[axis.index]:
        shape = place.layout.shape(axes.sizes)[2:]
        roles = tuple(sorted(role.value for role in place.roles))
        places.append((roles, len(place.layout.dims), shape, place.layout.buffer, repr(place.layout.neutral)))
    return (axis.kind, *sorted(places))


@dataclass(frozen=True)
class Isomorphic(Ranking):
    """Another criterion, its scores replaced by their rank among all units of axes with the same form, from above 0 to
    1: a global ranking then removes the same share of every form, and within a form those that score least.

    Fang, Ma, Mi, Wang, "Isomorphic Pruning for Vision Models", ECCV 2024, arXiv 2407.04616: scores are comparable only
    between sub-structures of the same topology. All editable axes of a form count, chosen or not; so do statistics.

    Fails: a form with few units is ranked coarsely. Scores a form once for each of its axes.
    """

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return tuple(dict.fromkeys(s for other in self._alike(axes, axis) for s in self.criterion.needs(axes, other)))

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = {
            other.index: self.criterion.scores(view, other).to("cpu", torch.float64)
            for other in self._alike(view.axes, axis)
        }
        together = torch.cat(list(found.values()))
        ranks = torch.searchsorted(together.sort().values, found[axis.index], right=True).double() / len(together)
        return torch.where(found[axis.index] < torch.inf, ranks, torch.inf)

    def _alike(self, axes: AxisMap, axis: Axis) -> list[Axis]:
        wanted = form(axes, axis)
        return [a for a in axes.editable if form(axes, a) == wanted and self.criterion.undefined(axes, a) is None]
