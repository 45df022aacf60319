"""Weights that no gradient reaches: newborns that are zero on that side stay so."""

from __future__ import annotations

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals import unfollowed


def untrained(axes: AxisMap, axis: Axis, role: Role) -> str | None:
    """Why no weight with a role gets a gradient, or None if one does, as far as the map knows.

    Args:
        axes: the map.
        axis: one of its axes.
        role: `produces`, to which the biases of units count too, or `reads`, to which the counterpart of the axis does.
    """
    answering = axis.counterpart.names if axis.counterpart is not None and role is Role.READS else ()
    names = [
        place.layout.name
        for place in axes.places[axis.index]
        if not place.layout.buffer
        and (role in place.roles or place.layout.name in answering or (role is Role.PRODUCES and _added(place)))
    ]
    if names and not any(axes.model.get_parameter(name).requires_grad for name in names):
        return f"{names[0]} has requires_grad=False"
    if role is Role.PRODUCES and unfollowed(axes, axis) is None:
        paths = axes.paths[axis.index]
        return f"what {paths[0].consumer.weight} reads is detached" if all(path.cut for path in paths) else None
    return None


def _added(place: Place) -> bool:
    return place.roles == {Role.CARRIES} and place.layout.neutral == 0.0
