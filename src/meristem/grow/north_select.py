"""NorthSelect: of many random newborns those whose activations are least like what is there."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import decomposing, fan_ins, mean_norm, plan
from meristem.grow.parts.spectrum import select, unit_rows
from meristem.signals import Proposals, Statistic, View, obstacle
from meristem.signals.finite import require_finite


@dataclass(frozen=True)
class NorthSelect(Method):
    """Random candidates are drawn; kept are those that raise the numerical rank and the sum of singular values most.

    The "Select" initialisation of NORTH*: Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to
    ANNs", AutoML-Conf 2022, arXiv 2202.08539. With H the activations (units x n) as they are read, every row divided by
    its root mean square, newborns are chosen one after the other so that the number of singular values of `H / sqrt(n)`
    above the cutoff, and then their sum, grow most: rows that are orthogonal to what is there add most. (Without the
    division, as in the authors' code, loud rows add most, and behind non-negative inputs these are all alike, more so
    than random ones. Their code also scores candidates one by one and not after each other; for two of its variants it
    sorts them the wrong way round.) Of rows of one size those that are zero but for a few samples are orthogonal to
    nearly everything, and hardly learn; so candidates whose pre-activations are far off zero are taken only once there
    are no others (derived, not of the paper).

    Everything is computed from the Gram matrix of recorded steps. Fan-in is scaled to the incumbents' mean norm
    (biases counted), fan-out is zero. Angles are those of candidates scaled so, which is exact where activations
    scale with pre-activations (ReLU, BatchNorm); behind others, tanh say, they are those of Kaiming's norm.

    Attributes:
        proposals: how many candidates are drawn (the authors: 1000 for dense layers, 100 for convolutions). A recorded
            batch costs a contraction with so many units and the Gram matrix of (units + proposals) activations.
        cutoff: singular values up to this do not count towards the rank.
        seed: of the candidates, together with the axis and its size.
        offset: candidates whose pre-activations' mean is more than so many standard deviations off zero come after the
            others (default 0.75; `math.inf`: all count alike). Not behind BatchNorm, which takes the mean away.

    Preserved: the function. Predicts no gains. Gives at most as many newborns as there are candidates that add
    anything; dead ones do not.
    Fails: looks at activations alone, not at what the loss wants.

    Raises:
        ConfigError: a setting is out of its range.
        SignalError: (when it proposes) recorded activations are not finite, or their products cannot be decomposed.
    """

    proposals: int = 100
    cutoff: float = 0.01
    seed: int = 0
    offset: float = 0.75

    def __post_init__(self) -> None:
        if not (self.proposals >= 1 and self.cutoff >= 0 and self.offset > 0):
            raise ConfigError(f"expected proposals >= 1, cutoff >= 0 and offset > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis, one_producer=True, any_norm=True)

    def zero_side(self) -> Role:
        return Role.READS

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return (self._statistic(axis),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found = view.signals[self._statistic(axis)]
        require_finite(found.gram, f"the products of the activations of {axis.name!r}")
        factors = mean_norm(fan_ins(view, axis, found.fan_in[0])) / found.incoming.norm(dim=1)
        offsets = found.mean.abs() / found.variance.sqrt().clamp(min=torch.finfo(factors.dtype).tiny)
        normed = any(path.batch_norms for path in view.axes.paths[axis.index])
        with decomposing(f"the products of the activations of {axis.name!r}"):
            chosen = self._chosen(found.gram, torch.zeros_like(offsets) if normed else offsets, axis.size, count)
        incoming = found.incoming[chosen] * factors[chosen, None]
        moments = found.mean[chosen] * factors[chosen], found.variance[chosen] * factors[chosen] ** 2
        note = None if len(chosen) == count else self._note(axis, len(chosen), count)
        return plan(self, view, axis, found.fan_in, incoming, moments, note)

    def _chosen(self, gram: Tensor, offsets: Tensor, incumbents: int, count: int) -> list[int]:
        """Numbers of candidates: all that are less than `offset` off zero before those that are less than twice as much
        off, and so on."""
        angles, known = unit_rows(gram), list(range(incumbents))
        turns = (offsets / self.offset).clamp(min=1).log2().ceil()
        for turn in turns.unique():
            rows = [*known, *(incumbents + (turns == turn).nonzero().flatten()).tolist()]
            found = select(angles[rows][:, rows], len(known), count + incumbents - len(known), self.cutoff)
            known += [rows[len(known) + number] for number in found]
        return [unit - incumbents for unit in known[incumbents:]]

    def _note(self, axis: Axis, given: int, count: int) -> str:
        why = "there are no more proposals" if given == self.proposals else "the other proposals add no direction"
        return f"{axis.name}: {given} of {count}; {why}"

    def _statistic(self, axis: Axis) -> Proposals:
        seed = zlib.crc32(f"{self.seed}/{axis.name}/{axis.size}".encode())
        return Proposals(axis.name, self.proposals, seed)
