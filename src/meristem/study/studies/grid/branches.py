"""An empty branch beside a convolution, or beside one and its normalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from meristem import depth
from meristem.axes import AxisMap
from meristem.depth import Places
from meristem.depth.addition import branch_in
from meristem.edit.plant import Planting
from meristem.edit.tree import Built, Node, Option, TreeRecord
from meristem.study.studies.grid.sprout import EMPTY


@dataclass(frozen=True)
class EmptyBranch(depth.Change):
    """`V s(norm(W x))` with V = 0 beside something that keeps the shape; what both return is added.

    Preserved: the function, bit for bit but for rounding of y + 0, in train mode, too.

    Attributes:
        places: the places of the model as it is now.
        module: the path of a convolution, or of a module that holds one; or a row that begins with one, "layer.0..1".
        norm: whether a batch normalization stands behind W.

    Raises:
        EditError: there is no place for a branch beside the module.
    """

    places: Places = field(repr=False)
    module: str
    norm: bool

    def __post_init__(self) -> None:
        self.places.addition("add", self.module)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The sum around what it stands beside. Raises `EditError` if the places are of another model."""
        self.places.check(axes)
        record = depth.AddBranch(self.places, self.module).tree(axes)
        copy, branch = branch_in(record), self._branch(axes)

        def instead(children: Mapping[str, Node]) -> dict[str, Node]:
            return {name: within(node) for name, node in children.items()}

        def within(node: Node) -> Node:
            if node is copy:
                return branch
            return node.model_copy(update={"children": instead(node.children)}) if isinstance(node, Built) else node

        containers = {path: instead(children) for path, children in record.containers.items()}
        return record.model_copy(update={"slots": instead(record.slots), "containers": containers})

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """The last layer is zero."""
        nodes = [*record.slots.values(), *(node for row in record.containers.values() for node in row.values())]
        nodes += [child for node in nodes if isinstance(node, Built) for child in node.children.values()]
        (branch,) = (node for node in nodes if isinstance(node, Built) and node.build == "Chain")
        *_, last = planting.made[id(branch)].children()
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def inexact(self) -> tuple[str, ...]:
        """Nothing: the branch is silent."""
        return ()

    def _branch(self, axes: AxisMap) -> Built:
        beside = axes.model.get_submodule(self.places.addition("add", self.module).modules[0])
        width = next(module.out_channels for module in beside.modules() if isinstance(module, nn.Conv2d))
        layers: list[Node] = [_convolution(width, EMPTY, bias=not self.norm)]
        layers += [Built(build="BatchNorm2d", options={"num_features": EMPTY})] if self.norm else []
        layers += [Built(build="ReLU"), _convolution(EMPTY, width, bias=True)]
        return Built(build="Chain", children={str(n): layer for n, layer in enumerate(layers)})


def _convolution(given: int, returned: int, bias: bool) -> Built:
    options: dict[str, Option] = {"in_channels": given, "out_channels": returned, "kernel_size": 3, "padding": 1}
    return Built(build="Conv2d", options={**options, "bias": bias})
