"""Taylor on weights: units die first whose weights the loss hardly answers to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.prune.criterion import Criterion
from meristem.prune.trained import frozen_weight, parameter_places, require_roles
from meristem.signals import Statistic, View
from meristem.signals.sensitivity import Sensitivity


@dataclass(frozen=True)
class TaylorWeights(Criterion):
    """`sqrt(sum (g w) ** 2)` over all weights of a unit: what the loss changes by if they are zeroed, to first order
    and as if they were independent. Mean of the squares over the recorded steps.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, arXiv
    1906.10771, with weights: their score is the square, over the fan-in. Here by default over the whole
    coupled group, also where no gate can be put (the size of query and key heads, recurrent nets).

    Preserved: the score, if fan-in is multiplied by c > 0 and fan-out divided by c behind ReLU.

    Attributes:
        roles: which slices count. Default: all. `(Role.PRODUCES,)` is the paper's.

    Raises:
        ConfigError: no role is given.
    """

    roles: tuple[Role, ...] = tuple(Role)

    def __post_init__(self) -> None:
        require_roles("TaylorWeights", self.roles)

    @property
    def predicts_loss(self) -> bool:
        return True

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        places = parameter_places(axes, axis, self.roles)
        if not places:
            return f"no parameter {' or '.join(role.value for role in self.roles)} its units"
        return frozen_weight(axes, places)

    def needs(self, axes: AxisMap, axis: Axis) -> tuple[Statistic, ...]:
        return (Sensitivity(axis.name),)

    def scores(self, view: View, axis: Axis) -> Tensor:
        squares = view.recorded(Sensitivity(axis.name)).squares
        found = [squares[p.layout.name, p.dim] for p in parameter_places(view.axes, axis, self.roles)]
        return torch.stack([part.to(found[0].device) for part in found]).sum(0).sqrt()
