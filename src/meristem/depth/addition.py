"""A place for a further branch, and the record that puts one there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from meristem.axes.expression import leaves, size_of
from meristem.axes.map import Axis, AxisMap, TensorLayout
from meristem.axes.module_path import within
from meristem.depth.branch import Join
from meristem.depth.container import Container
from meristem.depth.rows import held, stretch
from meristem.edit.joints import JOINTS
from meristem.edit.tree import Built, Copied, Node, Old, Opening, Setting, TreeRecord, Widths

FEWEST_UNITS = 2
"""A single unit of a concatenation cannot be told from a length that broadcasts."""


@dataclass(frozen=True)
class Addition:
    """A place for a branch beside a module: it is given what the module is given.

    Attributes:
        join: "add": what it returns is added to what the module returns; "cat": appended to it, as units of its own.
        name: the path of the module; where no module computes what lies between two tensor edges, the names of these.
        module: the path of the module; empty where there is none.
        row: beside a row of several modules, their paths.
        between: the numbers of what a branch is given and of what it is joined to; of two places with equal numbers and
            the same `join` it makes no difference where a branch is. (A summand more is one more in the whole sum, a
            part more of a concatenation in the whole of it.)
        parameters: number of entries of the module's parameters.
        units: for "cat", the name of the axis of the units that the module alone produces.
        dim: the dimension of them in what the module returns, -1 if it is the last.
        frozen: why nothing can be put there, or None.
    """

    join: Join
    name: str
    module: str
    between: tuple[int, int]
    parameters: int = 0
    units: str = ""
    dim: int = -1
    frozen: str | None = None
    row: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The module, or those of the row."""
        return self.row or (self.module,)


def alike(places: Iterable[Addition]) -> list[list[Addition]]:
    """The places between which it makes no difference, together: first, if possible, one that is open, and beside a
    module that is deep inside."""
    found: dict[object, list[Addition]] = {}
    for place in places:
        found.setdefault((place.join, place.between), []).append(place)
    return [sorted(w, key=lambda p: (p.frozen is not None, not p.module, -p.name.count("."))) for w in found.values()]


def summed(model: nn.Module, module: str) -> TreeRecord:
    """The record that puts a copy of a module beside it, joined by a sum."""
    return _beside(model, module, Copied(copied=module), Built(build="Beside"))[0]


def appended(axes: AxisMap, place: Addition, units: int) -> TreeRecord:
    """The record that puts a copy of a module beside it that has so many units of its own, in a concatenation.

    Args:
        axes: the map; room for the new units may be made already.
        place: where they are appended.
        units: how many.
    """
    module, axis = place.module, axes[place.units]
    sizes = {**dict(enumerate(axes.sizes)), axis.index: units}
    shapes = {name: [size_of(dim, sizes) for dim in layout.dims] for name, layout in tensors_over(axes, module, axis)}
    joint = Built(build="Concat", options={"dim": place.dim})
    record, path = _beside(axes.model, module, Copied(copied=module, shapes=shapes), joint)
    settings = [
        Setting(module=f"{path}{bound.module[len(module) :]}", path=bound.path, value=size_of(bound.value, sizes))
        for bound in axes.attributes
        if within(bound.module, module) and axis.index in leaves(bound.value)
    ]
    opened = Widths(opened=(Opening(axis=axis.name, module=module, units=units),))
    return record.model_copy(update={"settings": settings, "widths": opened})


def summed_row(model: nn.Module, container: Container, row: tuple[str, ...]) -> TreeRecord:
    """The record that puts copies of neighbouring children of a container beside them, joined by a sum."""
    olds, copies = (stretch({path: kind(path) for path in row}) for kind in (_old, _copied))
    return held(model, container, {row: Built(build="Beside", children={"0": olds, "1": copies})})


def branch_in(record: TreeRecord) -> Node:
    """The node of the branch in such a record."""
    found = [*record.slots.values(), *(node for children in record.containers.values() for node in children.values())]
    found += [child for node in found if isinstance(node, Built) for child in node.children.values()]
    return next(node for node in found if _is_new(node))


def _is_new(node: Node) -> bool:
    """Whether a node is a copy, or holds nothing else."""
    inner = [*node.children.values()] if isinstance(node, Built) else []
    return isinstance(node, Copied) or (bool(inner) and all(isinstance(child, Copied) for child in inner))


def _old(path: str) -> Node:
    return Old(old=path)


def _copied(path: str) -> Node:
    return Copied(copied=path)


def tensors_over(axes: AxisMap, module: str, axis: Axis) -> Iterator[tuple[str, TensorLayout]]:
    """The tensors of a module that lie over an axis, by their names in it."""
    for layout in axes.layouts.values():
        if within(layout.name, module) and any(axis.index in leaves(dim) for dim in layout.dims):
            yield layout.name[len(module) + 1 :], layout


def _beside(model: nn.Module, module: str, copy: Copied, joint: Built) -> tuple[TreeRecord, str]:
    """A copy behind a module, and its path then: in a joint of both, or one child more of the joint that holds it."""
    parent, _, name = module.rpartition(".")
    around = model.get_submodule(parent)
    if type(around) is not JOINTS[joint.build]:
        children: dict[str, Node] = {"0": Old(old=module), "1": copy}
        return TreeRecord(slots={module: joint.model_copy(update={"children": children})}), f"{module}.1"
    place = list(around._modules).index(name) + 1
    row: list[Node] = [Old(old=f"{parent}.{child}" if parent else child) for child in around._modules]
    row.insert(place, copy)
    record = TreeRecord(containers={parent: {str(number): node for number, node in enumerate(row)}})
    return record, f"{parent}.{place}" if parent else str(place)
