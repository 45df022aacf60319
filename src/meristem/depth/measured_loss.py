"""Measured loss: each removal is made, the loss computed, and everything taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from meristem.depth.criterion import Closure, Cut, DepthCriterion, required, undisturbed
from meristem.edit.rebuild import rebuilding


@dataclass(frozen=True)
class MeasuredLoss(DepthCriterion):
    """`L(without) - L(with)`: exact on the closure's batch, one forward pass for each removal and one more.

    The greedy criterion of depth pruning by perplexity (Kim et al., "Shortened LLaMA", arXiv 2402.02834, and others).
    Each loss is computed with the same state of torch's generators, so that a closure that draws its batch by them
    draws the same one; parameters, buffers and generators are afterwards as they were. Negative where the model is
    better without.

    Fails: removals are judged one by one, and together they may cost more or less than their sum; remove one at a time.
    """

    predicts_loss: ClassVar[bool] = True

    def scores(self, cuts: Sequence[Cut], closure: Closure | None = None) -> Tensor:
        if not cuts:
            return torch.zeros(0, dtype=torch.float64)
        loss = required(closure, "MeasuredLoss")
        model = cuts[0].places.model
        before = _loss(model, loss)
        return torch.tensor([self._without(cut, loss) - before for cut in cuts], dtype=torch.float64)

    def _without(self, cut: Cut, closure: Closure) -> float:
        with rebuilding(cut.places.axes, cut):
            return _loss(cut.places.axes.model, closure)


def _loss(model: nn.Module, closure: Closure) -> float:
    """The loss, with nothing changed by the run."""
    with undisturbed(model), torch.no_grad():
        return float(closure().detach())
