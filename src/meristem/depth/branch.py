"""A parallel branch, and the record that removes some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from meristem.axes.flow import Version
from meristem.edit.joints import Beside, Concat
from meristem.edit.tree import Built, Node, Old, Option, TreeRecord, Widths


@dataclass(frozen=True)
class Branch:
    """One of several ways from a call to a later one in which they are joined.

    Attributes:
        name: the path of the module that returns what is joined; or, if no module does, of the module around the join.
        join: "add" or "cat".
        start, end: numbers of the operator calls in which the ways part (-1: the inputs) and meet, first of all if what
            it returns is read by several concatenations.
        operand: what is joined.
        exit: the module that returns what is joined; None if no module does.
        others: modules that run only for this branch, without those within others.
        nones: how many Nones `exit` returns beside its tensor.
        parameters: number of entries of the parameters of all these modules.
        units: joined by "cat", the axes of the units that it alone produces: they go with it.
        dim: the dimension of them in what `exit` returns; None if its other lengths are not those of its input.
        frozen: why the branch cannot be removed, or None.
    """

    name: str
    join: Literal["add", "cat"]
    start: int
    end: int
    operand: Version
    exit: str | None
    others: tuple[str, ...]
    nones: int
    parameters: int
    units: tuple[str, ...] = ()
    dim: int | None = None
    frozen: str | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules that change when it is removed."""
        return self.others if self.exit is None else (*self.others, self.exit)

    @property
    def stand_in(self) -> Built:
        """What takes the place of its last module."""
        options: dict[str, Option] = {"nones": self.nones} if self.nones else {}
        if self.join == "add":
            return Built(build="Zero", options=options)
        return Built(build="Empty", options=options if self.dim is None else {"dim": self.dim, **options})


def removing_branches(model: nn.Module, branches: Sequence[Branch]) -> TreeRecord:
    """The record that removes branches: their last module gives way to zeros, or to nothing where they are
    concatenated, the others to the identity. A `Beside` or a `Concat` of an earlier edit loses them instead, and gives
    its place to the last child that remains."""
    slots: dict[str, Node] = {module: Built(build="Chain") for branch in branches for module in branch.others}
    containers: dict[str, dict[str, Node]] = {}
    exits = {branch.exit: branch for branch in branches if branch.exit is not None}
    for path, branch in exits.items():
        parent, left = _left(model, path, exits)
        if not left:
            slots[path] = branch.stand_in
        elif len(left) == 1:
            slots[parent] = left[0]
        else:
            containers[parent] = {str(number): node for number, node in enumerate(left)}
    units = dict.fromkeys(axis for branch in branches for axis in branch.units)
    return TreeRecord(slots=slots, containers=containers, widths=Widths(emptied=tuple(units)))


def _left(model: nn.Module, path: str, gone: dict[str, Branch]) -> tuple[str, list[Node]]:
    """If a module is a child of a joint of an earlier edit: the path of that, and the children that stay."""
    parent = path.rpartition(".")[0]
    joint = model.get_submodule(parent)
    if not isinstance(joint, (Beside, Concat)):
        return parent, []
    paths = [f"{parent}.{name}" if parent else name for name in joint._modules]
    return parent, [Old(old=child) for child in paths if child not in gone]
