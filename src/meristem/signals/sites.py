"""Whether newborns of an axis can be computed from statistics, and why not."""

from __future__ import annotations

from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import BatchNorm
from meristem.signals.channels import groups_of


def obstacle(
    axes: AxisMap, axis: Axis, *, one_producer: bool = False, any_norm: bool = False, several: bool = False
) -> str | None:
    """Why what newborns would read and what the loss wants of their readers cannot be brought together, or None.

    Args:
        axes: the map.
        axis: one of its axes.
        one_producer: whether newborns' pre-activations have to be known: then several weights that add into one
            activation are an obstacle, and batch normalization of anything else than pre-activations.
        any_norm: whether batch normalization may stand anywhere all the same, because it is computed.
        several: whether a unit may consist of several channels, each of which is followed on its own.
    """
    blocked = unfollowed(axes, axis, one_producer=one_producer, several=several)
    if blocked is not None:
        return blocked
    paths = axes.paths[axis.index]
    if one_producer and not any_norm and any(isinstance(s, BatchNorm) for path in paths for s in path.steps[1:]):
        return "batch normalization stands behind an activation function, a pooling or another one on the way"
    return next((path.unknown for path in paths if path.unknown is not None), None)


def unfollowed(axes: AxisMap, axis: Axis, *, one_producer: bool = False, several: bool = False) -> str | None:
    """Why units cannot be followed from the weights that produce them to those that read them, or None if they can,
    whatever they meet on the way.

    Args:
        axes: the map.
        axis: one of its axes.
        one_producer: whether several weights that add into one activation are an obstacle.
        several: whether a unit may consist of several channels, each of which is followed on its own.
    """
    if axis.couplings:
        names = ", ".join(sorted(coupling.value for coupling in axis.couplings))
        return f"its units are not independent ({names})"
    paths = axes.paths.get(axis.index, ())
    reasons = (path.blocked for path in paths if not (several and path.several))
    blocked = next((reason for reason in reasons if reason is not None), None)
    if blocked is not None:
        return blocked
    if any(path.several for path in paths):
        ends = [(end, role) for p in paths for end, role in ((p.producer, Role.PRODUCES), (p.consumer, Role.READS))]
        if len({len(groups_of(axes, axis, end, role)) for end, role in ends}) > 1:
            return "in one place more channels belong to a unit than in another"
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
