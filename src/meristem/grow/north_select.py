"""NorthSelect: of many random newborns those whose activations are least like what is there."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import fan_ins, mean_norm, plan
from meristem.grow.parts.spectrum import select
from meristem.signals import Proposals, Statistic, View, obstacle
from meristem.signals.finite import require_finite


@dataclass(frozen=True)
class NorthSelect(Method):
    """Random candidates are drawn; kept are those that raise the numerical rank and the sum of singular values most.

    The "Select" initialisation of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539. With H the activations (units x n) as they are read, newborns are chosen
    one after the other so that the number of singular values of `H / sqrt(n)` above the cutoff, and then their sum,
    grow most: rows that are orthogonal to what is there add most, so more orthogonal is better. (The authors' code
    scores candidates one by one and not after each other; for two of its variants it sorts them the wrong way round.)
    Everything is computed from the Gram matrix of recorded steps. Fan-in is scaled to the incumbents' mean norm
    (biases counted), fan-out is zero. The choice is made for candidates scaled so, which is exact where activations
    scale with pre-activations (ReLU, BatchNorm); behind others, tanh say, it is that of Kaiming's norm.

    Attributes:
        proposals: how many candidates are drawn (the authors: 1000 for dense layers, 100 for convolutions). A recorded
            batch costs a contraction with so many units and the Gram matrix of (units + proposals) activations.
        cutoff: singular values up to this do not count towards the rank.
        seed: of the candidates, together with the axis and its size.

    Preserved: the function. Predicts no gains. Gives at most as many newborns as there are candidates that add
    anything; dead ones do not.
    Fails: looks at activations alone, not at what the loss wants.

    Raises:
        ConfigError: a setting is out of its range.
        SignalError: (when it proposes) recorded activations are not finite.
    """

    proposals: int = 100
    cutoff: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.proposals >= 1 or not self.cutoff >= 0:
            raise ConfigError(f"expected proposals >= 1 and cutoff >= 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis, one_producer=True, any_norm=True)

    def zero_side(self) -> Role:
        return Role.READS

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (self._statistic(axis),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = view.signals[self._statistic(axis)]
        require_finite(found.gram, f"the products of the activations of {axis.name!r}")
        norm = mean_norm(fan_ins(view, axis, found.fan_in[0]))
        factors = norm / found.incoming.norm(dim=1)
        scales = torch.cat([factors.new_ones(axis.size), factors])
        if any(path.batch_norms for path in view.axes.paths[axis.index]):
            scales = torch.ones_like(scales)
        chosen = select(found.gram * scales * scales[:, None], axis.size, count, self.cutoff)
        incoming = found.incoming[chosen] * factors[chosen, None]
        moments = found.mean[chosen] * factors[chosen], found.variance[chosen] * factors[chosen] ** 2
        note = None if len(chosen) == count else self._note(axis, len(chosen), count)
        return plan(self, view, axis, found.fan_in, incoming, moments, note)

    def _note(self, axis: Axis, given: int, count: int) -> str:
        why = "there are no more proposals" if given == self.proposals else "the other proposals add no direction"
        return f"{axis.name}: {given} of {count}; {why}"

    def _statistic(self, axis: Axis) -> Proposals:
        seed = zlib.crc32(f"{self.seed}/{axis.name}/{axis.size}".encode())
        return Proposals(axis.name, self.proposals, seed)
