"""What is done at places: immutable changes of the module tree, to be given to `Edit.depth`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from meristem.axes.map import AxisMap
from meristem.depth.branch import Branch, removing_branches
from meristem.depth.columns import columns, largest
from meristem.depth.inserted import Inserted, Spot
from meristem.depth.insertions import inserting
from meristem.depth.memory import written_beside
from meristem.depth.places import Places
from meristem.depth.removals import removing
from meristem.depth.silence import Obstacle, silenced_by
from meristem.edit.plant import Planting
from meristem.edit.tree import NO_WIDTHS, Built, Node, Old, TreeRecord, Widths
from meristem.errors import EditError


class Change:
    """What all changes have in common: copies start as copies, and the function changes unless they say otherwise.

    A change finds its place when it is made, and raises `EditError` if there is none or it is frozen.

    Attributes:
        places: the places of the model as it is now.
    """

    places: Places

    def widths(self, axes: AxisMap) -> Widths:
        """No units come or go."""
        return NO_WIDTHS

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """Nothing but what `plant` does."""

    def inexact(self) -> tuple[str, ...]:
        """Why the function changes."""
        return ("it changes what is computed",)


@dataclass(frozen=True)
class Insert(Change):
    """Put a module at a place.

    Attributes:
        places: the places of the model as it is now.
        at: the place's name, "after layer1.0" for example.
        what: what is put there.
    """

    places: Places = field(repr=False)
    at: str
    what: Inserted

    def __post_init__(self) -> None:
        self.places.insertion(self.at)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The new module, with the width that the tensor has now.

        Raises:
            EditError: there is no such place, it is frozen, or `what` does not fit it.
        """
        spot = self._spot(axes)
        node = self.what.node(spot)
        for build in self._around(spot):
            node = Built(build=build, children={"0": node})
        return inserting(axes.model, self.places.containers, [(spot.place, node)])

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """As `what` says."""
        spot = self._spot(axes)
        node = _new(record, spot)
        for _ in self._around(spot):
            assert isinstance(node, Built), "it was built around what is put there"
            node = node.children["0"]
        self.what.start(spot, planting.made[id(node)], planting)

    def inexact(self) -> tuple[str, ...]:
        """As `what` says."""
        return self.what.inexact()

    def _spot(self, axes: AxisMap) -> Spot:
        return Spot(axes, self.places.insertion(self.at), self.places.now(axes), self.places.flows)

    def _around(self, spot: Spot) -> Iterator[str]:
        """What must stand around the new module, from the inside to the outside: it may not read a tensor into which
        others write later, and what passes over arguments that it does not take."""
        if any(written_beside(flow, call, spot.place.side) for flow, call in spot.calls()):
            yield "Fresh"
        if not spot.place.alone and not self.what.takes_all:
            yield "Chain"


@dataclass(frozen=True)
class Remove(Change):
    """Take a module out: a container loses it, or the identity takes its place; a copy of what it is given, `Fresh`,
    where operators that work in place would overwrite what somebody else needs.

    Attributes:
        places: the places of the model as it is now.
        module: its path.
    """

    places: Places = field(repr=False)
    module: str

    def __post_init__(self) -> None:
        self.places.removal(self.module)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The removal. Raises `EditError` if the module cannot be removed."""
        self.places.check(axes)
        return removing(self.places.containers, axes.model, self.places.flows, [self.places.removal(self.module)])

    def inexact(self) -> tuple[str, ...]:
        """A layer is gone."""
        return (f"removes {self.module}",)


@dataclass(frozen=True)
class RemoveBranch(Change):
    """Take a branch out: its modules give way to zeros.

    A branch of a concatenation takes its units along, in all that reads them, and nothing, `Empty`, takes its place:
    the model is what it was with zeros in the columns that read these units (where a normalization over the
    concatenation counts them, they are no longer counted).

    Preserved: the function, if the parameters that silence the branch (`Gate`) are zero already: of a branch of a sum
    those of its last layer, of one of a concatenation the columns that read it.

    Attributes:
        places: the places of the model as it is now.
        branch: its name, the path of its last module.
        silent: whether it was silent when this was made.
    """

    places: Places = field(repr=False)
    branch: str
    silent: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = self.places.branch(self.branch)
        object.__setattr__(self, "silent", is_silent(self.places, place))

    def widths(self, axes: AxisMap) -> Widths:
        """The units that only the branch produces go with it."""
        return Widths(emptied=self.places.branch(self.branch).units)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The removal. Raises `EditError` if the branch cannot be removed."""
        self.places.check(axes)
        branch = self.places.branch(self.branch)
        return removing_branches(axes.model, [branch], lambda: self.places.containers)

    def inexact(self) -> tuple[str, ...]:
        """A branch is gone, unless it was silent."""
        return () if self.silent else (f"removes the branch {self.branch}",)


def is_silent(places: Places, branch: Branch) -> bool:
    """Whether the parameters that silence a branch are known to be zero, so that removing it changes nothing."""
    tensors = dict(places.model.named_parameters())
    if branch.join == "cat":
        try:
            return largest(columns(places.axes, branch), tensors) == 0
        except EditError:
            return False
    call = places.flow.of[branch.exit or ""][0]
    found = silenced_by(places.flow, places.flow.version(call.outputs[0], call.last))
    return not isinstance(found, Obstacle) and not any(bool(tensors[name].any()) for name in found)


def _new(record: TreeRecord, spot: Spot) -> Node:
    """The node of what is put at a place."""
    place = spot.place
    if place.inside is None:
        around = record.slots[place.module]
        found = [n for n in around.children.values() if not isinstance(n, Old)] if isinstance(around, Built) else []
    else:
        found = [node for node in record.containers[place.inside].values() if not isinstance(node, Old)]
    (node,) = found
    return node
