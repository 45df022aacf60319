"""A parallel branch, and the record that removes some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from meristem.axes.flow import Version
from meristem.depth.container import Container
from meristem.edit.joints import Beside, Concat, Stretch
from meristem.edit.tree import Built, Node, Old, Option, TreeRecord, Widths

Join = Literal["add", "cat"]
"""How what a branch returns is joined to what is beside it: by a sum, or by a concatenation."""


@dataclass(frozen=True)
class Way:
    """One of several ways from an operator call to a later one in which they are joined.

    Attributes:
        start, end: numbers of the operator calls in which the ways part (-1: the inputs) and meet, first of all if what
            it returns is read by several concatenations.
        operand: what is joined.
    """

    start: int
    end: int
    operand: Version


@dataclass(frozen=True)
class Branch:
    """Modules that compute nothing but what is joined to something else by a sum or a concatenation.

    Attributes:
        name: the path of the module that returns what is joined; or, if no module does, of the module around the join.
        join: "add" or "cat".
        ways: one; or as many as there are calls of the module that returns what is joined.
        exit: the module that returns what is joined; None if no module does.
        others: modules that run only for this branch, without those within others.
        nones: how many Nones `exit` returns beside its tensor.
        parameters: number of entries of the parameters of all these modules.
        units: joined by "cat", the axes of the units that it alone produces: they go with it.
        dim: the dimension of them in what `exit` returns; None if its other lengths are not those of its input.
        frozen: why the branch cannot be removed, or None.
    """

    name: str
    join: Join
    ways: tuple[Way, ...]
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


def removing_branches(
    model: nn.Module, branches: Sequence[Branch], containers: Callable[[], Mapping[str, Container]]
) -> TreeRecord:
    """The record that removes branches: their modules give way to zeros, the last one to nothing where they are
    concatenated. (What is computed before that does not matter, but it may work in place, so no module can hand on what
    it is given.) A `Beside` or a `Concat` of an earlier edit loses them instead, and gives its place to the last child
    that remains; if that is a `Stretch` of children of a container, to these."""
    slots: dict[str, Node] = {module: Built(build="Zero") for branch in branches for module in branch.others}
    fewer: dict[str, dict[str, Node]] = {}
    ended: dict[str, list[Node]] = {}
    exits = {branch.exit: branch for branch in branches if branch.exit is not None}
    for path, branch in exits.items():
        parent, left = _left(model, path, exits)
        if not left:
            slots[path] = branch.stand_in
        elif len(left) > 1:
            fewer[parent] = {str(number): node for number, node in enumerate(left)}
        elif type(model.get_submodule(left[0].old)) is Stretch and parent.rpartition(".")[0] in containers():
            ended[parent] = _children(model, left[0].old)
        else:
            slots[parent] = left[0]
    units = dict.fromkeys(axis for branch in branches for axis in branch.units)
    record = TreeRecord(slots=slots, containers=fewer, widths=Widths(emptied=tuple(units)))
    for path in dict.fromkeys(joint.rpartition(".")[0] for joint in ended):
        container = containers()[path]
        row = (ended.get(container.child(n), [old]) for n, old in enumerate(container.unchanged))
        record = record.joined(container.rearranged(model, [node for nodes in row for node in nodes]))
    return record


def _children(model: nn.Module, path: str) -> list[Node]:
    return [Old(old=f"{path}.{name}") for name in model.get_submodule(path)._modules]


def _left(model: nn.Module, path: str, gone: Mapping[str, Branch]) -> tuple[str, list[Old]]:
    """If a module is a child of a joint of an earlier edit: the path of that, and the children that stay."""
    parent = path.rpartition(".")[0]
    joint = model.get_submodule(parent)
    if not isinstance(joint, (Beside, Concat)):
        return parent, []
    paths = [f"{parent}.{name}" if parent else name for name in joint._modules]
    return parent, [Old(old=child) for child in paths if child not in gone]
