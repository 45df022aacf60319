"""Which calls of a model's code read an axis, and which produce it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap, Role
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

    A weight that reads an axis in one call and produces it in another is told by the calls of the traced run; any other
    does the same in all its calls.

    Args:
        axes: the map.
        wanted: the axes; they are numbered in this order.

    Attributes:
        weights: the names of all these weights, by the number of the axis.
    """

    def __init__(self, axes: AxisMap, wanted: Sequence[Axis]) -> None:
        self._readers: dict[str, list[Side]] = {}
        self._producers: dict[str, list[Side]] = {}
        self.weights: list[frozenset[str]] = []
        for number, axis in enumerate(wanted):
            paths = axes.paths[axis.index]
            read, made = _calls(path.consumer for path in paths), _calls(path.producer for path in paths)
            both = read.keys() & made.keys()
            for calls, sides, role in ((read, self._readers, Role.READS), (made, self._producers, Role.PRODUCES)):
                for rank, (weight, found) in enumerate(calls.items()):
                    channels = Channels.along(axes, weight, axis, role)
                    side = Side(number, rank, channels, frozenset(found) if weight in both else None)
                    sides.setdefault(weight, []).append(side)
            self.weights.append(frozenset((*read, *made)))

    def readers(self, weight: str, call: int) -> Iterator[Side]:
        """What it reads in this of its calls."""
        return (side for side in self._readers.get(weight, ()) if side.calls is None or call in side.calls)

    def producers(self, weight: str, call: int) -> list[Side]:
        """What it produces in this of its calls."""
        return [side for side in self._producers.get(weight, ()) if side.calls is None or call in side.calls]


def _calls(ends: Iterable[End]) -> dict[str, set[int]]:
    """By weight, in the order in which they come."""
    found: dict[str, set[int]] = {}
    for end in ends:
        found.setdefault(end.weight, set()).add(end.call)
    return found
