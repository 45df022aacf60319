"""The columns with which the rest of a model reads the units of a branch of a concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import AxisMap, Role
from meristem.axes.module_path import within
from meristem.depth.branch import Branch
from meristem.errors import EditError


@dataclass(frozen=True, eq=False)
class Columns:
    """Some slices of one parameter.

    Attributes:
        name: of the parameter.
        dim: the dimension in which it reads the units.
        index: which indices of it; int64.
    """

    name: str
    dim: int
    index: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """These slices of a tensor of the parameter's shape."""
        return tensor.index_select(self.dim, self.index.to(tensor.device))


def columns(axes: AxisMap, branch: Branch) -> tuple[Columns, ...]:
    """What reads the units of a branch; if these slices are zero, nothing hears of it.

    Raises:
        EditError: the units meet others before anything reads them, in a normalization, say, or no parameter reads
            them.
    """
    found: list[Columns] = []
    for axis in (axes[name] for name in branch.units):
        if axis.couplings:
            why = ", ".join(sorted(axis.couplings))
            raise EditError(f"the units of {branch.name} act on those beside them ({why}), not only on what reads them")
        for place in axes.places[axis.index]:
            name = place.layout.name
            if Role.READS in place.roles and not any(within(name, path) for path in branch.modules):
                index = (units_along(place.layout.dims[place.dim], axis.index, axes.sizes) >= 0).nonzero().flatten()
                found.append(Columns(name, place.dim, index))
    if not found:
        raise EditError(f"no parameter reads the units of {branch.name}")
    return tuple(found)


def largest(found: tuple[Columns, ...], parameters: Mapping[str, Tensor]) -> float:
    """The largest absolute entry of columns."""
    return max(float(one.of(parameters[one.name].detach()).abs().max()) for one in found)


def answer(found: tuple[Columns, ...], parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
    """`<dL/dW, W>` over columns: the derivative of the loss by a factor on all of them; float64, on the CPU."""
    total = torch.zeros((), dtype=torch.float64)
    for one in found:
        if one.name in gradients:
            weight, gradient = one.of(parameters[one.name].detach()), one.of(gradients[one.name])
            total += (weight.double() * gradient.double()).sum().cpu()
    return total
