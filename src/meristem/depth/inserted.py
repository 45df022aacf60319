"""What can be put at a place: modules that keep the shape of a tensor. One file for each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import nn

from meristem.axes.flow import Flow, Invocation, Version
from meristem.axes.map import AxisMap
from meristem.depth.insertions import Insertion
from meristem.edit.plant import Planting
from meristem.edit.tree import Built, Node, Option
from meristem.errors import EditError


@dataclass(frozen=True, eq=False)
class Spot:
    """A place, and the tensor that passes it as the model is now.

    Attributes:
        axes: the map of the model.
        place: the place.
        flow: a run of the model as it is now.
        flows: its runs in the modes in which it does different things.
    """

    axes: AxisMap
    place: Insertion
    flow: Flow
    flows: tuple[Flow, ...]

    @cached_property
    def version(self) -> Version:
        """The tensor, the first time it passes."""
        call = self.flow.of[self.place.module][0]
        if self.place.side == "after":
            return self.flow.version(call.outputs[0], call.last)
        return self.flow.version(call.inputs[0], call.first)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor, on the example."""
        return self.flow.shape(self.version)

    @property
    def spatial(self) -> int | None:
        """How many dimensions of positions follow the features; 0 where the features are last, None if neither."""
        dims, features = len(self.shape), self.place.features
        if features == dims - 1 and dims > 1:
            return 0
        return dims - 2 if features == 1 and 3 <= dims <= 5 else None

    @property
    def width(self) -> int:
        """The number of features of the tensor. Raises `EditError` if no dimension of it is known to be features."""
        if self.place.features is None or self.spatial is None:
            raise EditError(
                f"{self.place.name}: the tensor of shape {self.shape} has no features that layers produce, neither in "
                "its last dimension nor in the one after the batch"
            )
        return self.shape[self.place.features]

    def calls(self) -> Iterator[tuple[Flow, Invocation]]:
        """Every call of the module at the place, in every run."""
        return ((flow, call) for flow in self.flows for call in flow.of.get(self.place.module, ()))

    def layer(self, given: int, returned: int, kernel: int = 1, bias: bool = True) -> Built:
        """A linear layer or a convolution over the features that keeps positions.

        Args:
            given, returned: numbers of features.
            kernel: size of the convolution's window, odd; of no account where features are last.
            bias: whether it has one.
        """
        options: dict[str, Option] = {"bias": bias}
        if not self.spatial:
            return Built(build="Linear", options={"in_features": given, "out_features": returned, **options})
        options |= {"in_channels": given, "out_channels": returned, "kernel_size": kernel, "padding": kernel // 2}
        return Built(build=f"Conv{self.spatial}d", options=options)

    def batch_norm(self, features: int) -> Built:
        """A batch normalization of the features.

        Raises:
            EditError: the features are last, behind more than a batch.
        """
        if not self.spatial and len(self.shape) > 2:
            raise EditError(f"{self.place.name}: batch normalization wants features in dimension 1, here they are last")
        return Built(build=f"BatchNorm{self.spatial or 1}d", options={"num_features": features})


class Inserted(ABC):
    """A kind of module to put at a place. Frozen dataclasses of settings implement it."""

    takes_all: ClassVar[bool] = False
    """Whether it can be called with other arguments beside the tensor, as the blocks around it may be."""

    @abstractmethod
    def node(self, spot: Spot) -> Node:
        """The module as a record. Raises `EditError` if this kind does not fit the place."""

    def start(self, spot: Spot, module: nn.Module, planting: Planting) -> None:
        """Give the new module, which is not in place yet, the values that it starts from. Default: PyTorch's own.

        Args:
            spot: the place.
            module: what `node` has become.
            planting: all that the edit does to the model, or to a copy that follows.
        """
        return

    def inexact(self) -> tuple[str, ...]:
        """Why the function changes; nothing if it is preserved. Default: it is."""
        return ()
