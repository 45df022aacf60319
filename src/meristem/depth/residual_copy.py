"""A silent copy of a block beside the identity: for blocks that are no identity without their branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from meristem.axes.module_path import within
from meristem.depth.copies import set_zero
from meristem.depth.inserted import Inserted, Spot
from meristem.depth.memory import overwritten
from meristem.depth.silence import Obstacle, silenced_by
from meristem.edit.plant import Planting
from meristem.edit.tree import Built, Copied, Node
from meristem.errors import EditError


@dataclass(frozen=True)
class ResidualCopy(Inserted):
    """`x + copy(x)` behind a block, where the last layer or normalization of the copy is zero and the rest is copied.

    For blocks whose output passes a normalization after the last sum (the original transformer, BERT): a copy with
    silent branches would still normalize. As in `ZeroResidual`, the zeros learn first (derived).

    Preserved: the function, bit for bit but for rounding of x + 0, in train mode, too. The copy of a block that writes
    to what it is given (one that begins with an activation in place) is given a copy of x: `Fresh`.
    Fails: the new block is a sum around a block, so its state dict has one level more, and it is no repetition of the
    blocks beside it.

    Raises:
        EditError: the place is before a module, the block does not keep the shape, no parameters silence it, or it
            writes to what it is given beside its first tensor.
    """

    takes_all: ClassVar[bool] = True

    def node(self, spot: Spot) -> Node:
        """The sum of the identity and the copy."""
        call = spot.flow.of[spot.place.module][0]
        given = spot.flow.version(call.inputs[0], call.first) if call.inputs else None
        if spot.place.side == "before" or given is None or spot.flow.shape(given) != spot.shape:
            raise EditError(f"{spot.place.name}: only behind a block that keeps the shape of its input")
        found = silenced_by(spot.flow, spot.version)
        if isinstance(found, Obstacle):
            raise EditError(f"{spot.place.name}: no zeros silence the block: {found.reason}")
        outside = next((name for name in found if not within(name, spot.place.module)), None)
        if outside is not None:
            raise EditError(f"{spot.place.name}: no zeros of its own silence the block: {outside} is outside")
        return Built(build="Beside", children={"0": Built(build="Chain"), "1": _copy(spot)})

    def start(self, spot: Spot, module: nn.Module, planting: Planting) -> None:
        """Zeros in the copy's last layer."""
        found = silenced_by(spot.flow, spot.version)
        assert not isinstance(found, Obstacle), "refused by `node`"
        copies = [pair for pair in planting.copies if any(part is pair[1] for part in module.modules())]
        set_zero(planting, copies, set(found))


def _copy(spot: Spot) -> Node:
    """A copy of the block, which must leave what it is given to the sum."""
    written = {place for flow, call in spot.calls() for place in overwritten(flow, call)}
    if written - {0}:
        raise EditError(f"{spot.place.name}: the block writes to more than its first tensor, and so would a copy of it")
    node = Copied(copied=spot.place.module)
    return Built(build="Fresh", children={"0": node}) if written else node
