"""Which calls of a model's code read an axis, and which produce it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.axes.path import End
from meristem.signals.channels import Channels


@dataclass(frozen=True, eq=False)
class Side:
    """What one weight does with one axis.

    Attributes:
        number: of the axis.
        rank: of the weight among those that do the same, in the order of the map.
        channels: where the axis lies in what it reads or gives.
        calls: in which of its calls it does so; None for all of them, however many there are.
    """

    number: int
    rank: int
    channels: Channels
    calls: frozenset[int] | None


class Ends:
    """The weights that read or produce some axes.

    Whatever stands between them: all that counts is that they are called where a call can be heard. A weight that is
    laid out one way in some of its calls and the other way in others is told by the calls of the traced run; any other
    does the same in all its calls.

    Args:
        axes: the map.
        wanted: the axes, none of which is `unheard`; they are numbered in this order.

    Attributes:
        weights: the names of all these weights, by the number of the axis.
    """

    def __init__(self, axes: AxisMap, wanted: Sequence[Axis]) -> None:
        self._readers: dict[str, list[Side]] = {}
        self._producers: dict[str, list[Side]] = {}
        self.weights: list[frozenset[str]] = []
        for number, axis in enumerate(wanted):
            names = set()
            for role, sides in ((Role.READS, self._readers), (Role.PRODUCES, self._producers)):
                for rank, (place, calls) in enumerate(_called(axes, axis, role)):
                    name = place.layout.name
                    always = len(calls) == len(axes.contractions[name])
                    channels = Channels.along(axes, place, calls[0], axis)
                    side = Side(number, rank, channels, None if always else frozenset(end.call for end in calls))
                    sides.setdefault(name, []).append(side)
                    names.add(name)
            self.weights.append(frozenset(names))

    def readers(self, weight: str, call: int) -> Iterator[Side]:
        """What it reads in this of its calls."""
        return (side for side in self._readers.get(weight, ()) if side.calls is None or call in side.calls)

    def producers(self, weight: str, call: int) -> list[Side]:
        """What it produces in this of its calls."""
        return [side for side in self._producers.get(weight, ()) if side.calls is None or call in side.calls]


def unheard(axes: AxisMap, axis: Axis) -> str | None:
    """Why what is read and given of the units of an axis cannot be heard, or None if it can: whether all weights that
    produce it or read it are linear maps or convolutions, and nothing else."""
    found = {role: {(p.layout.name, p.dim) for p, _ in _called(axes, axis, role)} for role in _ROLES}
    for place in axes.places[axis.index]:
        for role in _ROLES:
            if role in place.roles and not place.layout.buffer and (place.layout.name, place.dim) not in found[role]:
                return f"{place.layout.name} {role.value} it in a way that cannot be heard"
    missing = next((role for role in _ROLES if not found[role]), None)
    return None if missing is None else f"no weight {missing.value} it"


_ROLES = (Role.PRODUCES, Role.READS)


def _called(axes: AxisMap, axis: Axis, role: Role) -> list[tuple[Place, list[End]]]:
    """The dimensions of weights in which calls read or produce an axis, with these calls; in the order in which the
    weights are first called."""
    places = [p for p in axes.places[axis.index] if role in p.roles and not p.layout.buffer]
    order = {weight: rank for rank, weight in enumerate(axes.contractions)}
    found = []
    for place in sorted(places, key=lambda p: order.get(p.layout.name, len(order))):
        ends = axes.contractions.get(place.layout.name, ())
        calls = [end for end in ends if place.dim == (role is Role.READS) ^ end.transposed]
        if calls:
            found.append((place, calls))
    return found
