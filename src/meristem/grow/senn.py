"""SENN: newborns that raise the natural expansion score most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.north import fan_ins, mean_norm, plan
from meristem.signals import Expanded, Expansion, Statistic, View, obstacle
from meristem.signals.batch import Block
from meristem.signals.natural import chosen, score


@dataclass(frozen=True)
class SENN(Method):
    """Proposals are improved by Langevin sampling, and those taken that raise `eta = g^T F^-1 g` most; fan-out is zero.

    Mitchell, Menzenbach, Kersting, Mundt, "Self-Expanding Neural Networks", arXiv 2307.04526. eta is twice the decrease
    of the loss that a natural gradient step on the readers' weights promises; F is Kronecker-factored, each reader for
    itself. Proposals with activations f raise it by (see `signals.natural`)

        delta eta = tr(C^T R^-1 C G^-1),    C = E[f res^T], res = g - E[g a^T] E[a a^T]^-1 a, G = E[g g^T]

    with a what the reader reads today, g the loss gradient at what it gives, and R what of E[f f^T] the inputs a do not
    explain. With R the increase is exact, and zero for f in the span of a, both up to the ridge; the authors' code has
    E[f f^T] there, a lower bound, which guides the sampling here too. Newborns are taken one after the other, each for
    what it adds to those before it. For convolutional readers a and f are patches and E is over samples and positions,
    as in KFC (Grosse, Martens 2016, arXiv 1602.01407); flattened maps are one patch.

    Fan-in has the incumbents' mean norm of the recorded step (biases counted), and sampling keeps to that sphere, so
    that what is scored, and predicted, is the newborn as it is inserted. (The authors sample under a Gaussian prior of
    variance 1 on every weight, whatever size incumbents have, and insert where the chain ends; with tanh, whose score
    goes on rising with the weights, newborns then are the larger the longer it is sampled: measured, 2 to 15 times as
    large as incumbents. The sphere is that prior at a given norm: derived, not of the paper.)

    Attributes:
        proposals: how many are sampled (default 100).
        steps: of Metropolis-adjusted Langevin sampling, on the first recorded batch (default 10; the paper: 300). Each
            costs a forward and backward pass of `proposals` units and their readers' patches, over at most 2 ** 15
            samples and positions: about ten training steps for all of them by default, for a 784-256-256-10 MLP as for
            a convolutional net with 32, 64 and 128 channels.
        temperature: of the sampling, as a share of the proposals' mean score (default 0.1).
        ridge: on every second moment, as a share of its mean diagonal (default 0.01).
        seed: of the proposals, together with the axis and its size.

    Preserved: the function. Predicted gain of a newborn: half of what it adds to eta, the decrease of the local
    quadratic model of the loss per sample, if the loss is a negative log-likelihood; independent of the loss's scale.
    Gives at most as many newborns as there are proposals that add anything.
    Fails: with no more samples and positions than the reader has inputs nothing is left to explain, or noise is;
    readers are taken to be independent of each other, positions too.

    When to grow: `schedule.OnGain(SENN(), relative=1, reference=lambda view, axis:
    schedule.expansion_bar(*SENN().scores(view, axis)), ...)` is the paper's rule with its two thresholds;
    `signals.natural.most_additions` bounds how often it can call.

    Raises:
        ConfigError: a setting is out of its range.
    """

    proposals: int = 100
    steps: int = 10
    temperature: float = 0.1
    ridge: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.proposals >= 1 and self.steps >= 0 and self.temperature > 0 and self.ridge > 0):
            raise ConfigError(f"expected proposals >= 1, steps >= 0, temperature > 0 and ridge > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return obstacle(axes, axis, one_producer=True, any_norm=True)

    def zero_side(self) -> Role:
        return Role.READS

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        def size(fan_in: Sequence[Block]) -> float:
            return mean_norm(fan_ins(View(axes), axis, fan_in[0]))

        return (replace(self._statistic(axis), norm=size),)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        found: Expanded = view.signals[self._statistic(axis)]
        units, added = chosen(found.readers, count, self.ridge)
        note = None
        if len(units) < count:
            why = "there are no more proposals" if len(units) == self.proposals else "the other proposals add nothing"
            note = f"{axis.name}: {len(units)} of {count}; {why}"
        moments = found.mean[units], found.variance[units]
        growth = plan(self, view, axis, found.fan_in, found.incoming[units], moments, note)
        return Growth(axis, growth.gather, growth.start, tuple(_gains(added).tolist()), note)

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        return _gains(chosen(view.signals[self._statistic(axis)].readers, count, self.ridge)[1])

    def scores(self, view: View, axis: Axis) -> tuple[float, float]:
        """What gains are compared with: half of eta today, and half of the mean squared gradient at the readers.

        The second depends on the scale of the loss, and is that of a loss that is a mean over samples.
        """
        found: Expanded = view.signals[self._statistic(axis)]
        return sum(score(reader, self.ridge) for reader in found.readers) / 2, found.gradient / 2

    def _statistic(self, axis: Axis) -> Expansion:
        return Expansion(
            axis.name, self.proposals, self.steps, self.temperature, self.ridge, self.seed * 2**24 + axis.size
        )


def _gains(added: list[float]) -> Tensor:
    """Half of the increases; not rising, so that the first ones are not promised for what later ones bring."""
    gains = torch.tensor(added, dtype=torch.float64) / 2
    return gains.cummin(0).values if len(gains) else gains
