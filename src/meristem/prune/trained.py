"""Whether gradients of an axis' weights can be recorded."""

from __future__ import annotations

from collections.abc import Iterable

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.errors import ConfigError

FROZEN = (
    "no parameter of the model requires a gradient; call model.requires_grad_(True) for as long as units are scored, "
    "or take a criterion that needs none, such as GroupNorm() or WandaUnits()"
)
"""Why nothing that is made of gradients can be known, and what to do."""


def all_frozen(axes: AxisMap) -> bool:
    """Whether no parameter of the model is trained."""
    return not any(parameter.requires_grad for parameter in axes.model.parameters())


def frozen_weight(axes: AxisMap, places: Iterable[Place]) -> str | None:
    """Why gradients of these parameters say nothing, or None if all are trained."""
    names = (place.layout.name for place in places)
    frozen = next((name for name in names if not axes.model.get_parameter(name).requires_grad), None)
    return None if frozen is None else f"{frozen} has requires_grad=False, so no gradient of it is recorded"


def parameter_places(axes: AxisMap, axis: Axis, roles: Iterable[Role] = tuple(Role)) -> tuple[Place, ...]:
    """Where an axis occurs in parameters with one of these roles."""
    wanted = frozenset(roles)
    return tuple(p for p in axes.places[axis.index] if not p.layout.buffer and p.roles & wanted)


def require_roles(name: str, roles: tuple[Role, ...]) -> None:
    """Raise `ConfigError` if no role, or something else, is given."""
    if not roles or not all(isinstance(role, Role) for role in roles):
        raise ConfigError(f"{name}(roles=...) must be a tuple of at least one meristem.axes.Role, got {roles!r}")
