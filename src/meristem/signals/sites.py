"""Whether newborns of an axis can be computed from statistics, and why not."""

from __future__ import annotations

from meristem.axes.map import Axis, AxisMap, Role


def obstacle(axes: AxisMap, axis: Axis, *, one_producer: bool = False) -> str | None:
    """Why what newborns would read and what the loss wants of their readers cannot be brought together, or None.

    Args:
        axes: the map.
        axis: one of its axes.
        one_producer: whether several weights that add into one activation are an obstacle.
    """
    if axis.couplings:
        names = ", ".join(sorted(coupling.value for coupling in axis.couplings))
        return f"its units are not independent ({names})"
    paths = axes.paths.get(axis.index, ())
    blocked = next((path.obstacle for path in paths if path.obstacle is not None), None)
    if blocked is not None:
        return blocked
    producers, readers = {path.producer.weight for path in paths}, {path.consumer.weight for path in paths}
    for place in axes.places[axis.index]:
        if place.layout.buffer:
            continue
        for role, found in ((Role.PRODUCES, producers), (Role.READS, readers)):
            if role in place.roles and place.layout.name not in found:
                return f"{place.layout.name} {role.value} it in a way that cannot be followed"
    if not paths:
        return "no weight was found that produces it and one that reads it"
    if one_producer and len(producers) > 1:
        return f"{len(producers)} weights add into one activation"
    return None
