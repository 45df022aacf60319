"""What criteria have in common that look at what is read of the units."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap, Coupling
from meristem.prune.criterion import Criterion
from meristem.signals import Statistic
from meristem.signals.reads import Reads, unheard


def read_in_part(axis: Axis) -> str | None:
    """Why what weights read of the units is not all that they do, or None if it is.

    Where two activations are contracted over units, as queries and keys are over the size of a head, units act on the
    result without being read by any weight; that they are read somewhere else (as values) is only a part.
    """
    if Coupling.BILINEAR in axis.couplings:
        return "two activations are contracted over its units, as queries and keys are"
    return None


@dataclass(frozen=True)
class ReadCriterion(Criterion):
    """Scores units by what the weights that read them are given; refused where that cannot be heard, or is a part."""

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        partly = read_in_part(axis)
        return unheard(axes, axis) if partly is None else f"{partly}, and what weights read of them is only a part"

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return (Reads(axis.name),)
