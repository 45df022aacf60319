"""Firefly: split units and new units compete, after a short training of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.closure import require_closure, reseeded
from meristem.grow.parts.split_point import no_split
from meristem.grow.parts.swarm import Swarm
from meristem.signals import View


@dataclass(frozen=True)
class Firefly(Method):
    """Every unit split in two, and some new ones, are trained together for a moment; the best by their gates are kept.

    Wu, Liu, Stone, Liu, "Firefly neural architecture descent", NeurIPS 2020, arXiv 2102.08574, section 2, with the
    settings of the published code. Candidates are splits `(phi((w_i + v_i) x) + phi((w_i - v_i) x)) / 2` in place of
    `phi(w_i x)`, and new units with fan-in `U(-0.01, 0.01)` and fan-out `N(0, 0.1)`.

    1. With all of them in place, v, fan-in and fan-out are trained by RMSprop (alpha 0.9, momentum 0.1) on the loss
       plus `0.01 (|v|^2 + |fan-in|^2 + 0.01 |fan-out|^2)`.
    2. Every candidate gets a gate y that mixes it in, 0 without it and 1 with it. At y = 0 the model is as it is, and
       the score of a candidate is dL/dy, averaged over fresh evaluations.
    3. Of all candidates with negative scores the lowest are kept, after division by the norm of the weights that a
       candidate brings along (those of large norm would win otherwise).

    Needs no second derivative: ReLU is seen as it is. New layers, the paper's third kind of candidates, are not among
    them.

    Attributes:
        steps: of training, each of which evaluates the loss once (default 30; the paper trains for one epoch).
        passes: evaluations of the loss for the scores (default 5).
        fresh: how many new units compete (default 70, as published).
        learning_rate: of RMSprop (default 0.001).

    Preserved: nothing; the loss decreases, to first order by the predicted gain. Predicted gain of a newborn: minus its
    score.
    Fails: candidates are trained together and judged alone. A unit is split at most once.

    Raises:
        ConfigError: a setting is out of its range; or no closure was given (when it proposes).
        SignalError: (when it proposes) the loss or its gradient is not finite.
    """

    requires_closure: ClassVar[bool] = True

    steps: int = 30
    passes: int = 5
    fresh: int = 70
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and self.passes >= 1 and self.fresh >= 0 and self.learning_rate > 0):
            raise ConfigError(f"expected steps >= 0, passes >= 1, fresh >= 0 and learning_rate > 0, got {self!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_split(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        require_closure(view)
        view = reseeded(view, axis)
        swarm = Swarm.drawn(view, axis, self.fresh)
        with swarm.trial() as tried:
            swarm.train(tried, self.steps, self.learning_rate)
            scores = swarm.scores(tried, self.passes)
            carried = swarm.carried()
        return swarm.growth(self._best(swarm, scores, count), count, -scores, carried, repr(self))

    def gains(self, view: View, axis: Axis, count: int) -> Tensor:
        return torch.tensor(self.propose(view, axis, count).gains, dtype=torch.float64)

    def _best(self, swarm: Swarm, scores: Tensor, count: int) -> Tensor:
        """The kept candidates by number, those with the largest gains first."""
        order = (scores / swarm.norms()).argsort(stable=True)
        kept = order[: min(count, int((scores < 0).sum()))]
        return kept[scores[kept].argsort(stable=True)]
