"""Several sparse trainings by one optimizer: where they would get in each other's way."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from meristem.errors import ConfigError

if TYPE_CHECKING:
    from meristem.mask.sparse import Sparse

AT_WORK: weakref.WeakSet[Sparse] = weakref.WeakSet()
"""All whose hooks are registered."""


def check_alone(new: Sparse) -> None:
    """Refuse a second one by the same optimizer if both mask the same weights, or if one of them withholds gradients.

    Raises:
        ConfigError: as it says.
    """
    for other in list(AT_WORK):
        if not {id(o) for o in other.optimizers}.intersection(id(o) for o in new.optimizers):
            continue
        both = sorted(set(other.masks) & set(new.masks)) if other.model is new.model else []
        stops = [s.method for s in (other, new) if s.method.replaces_step]
        if both or stops:
            reason = (
                f"both mask {both[0]}" if both else f"updates of {type(stops[0]).__name__} replace the other's steps"
            )
            raise ConfigError(
                f"this optimizer has a Sparse({type(other.method).__name__}) already, and {reason}. Use one for all "
                "weights (PerLayer gives layers densities of their own), give each its own optimizer, or `close()` the "
                "first"
            )
