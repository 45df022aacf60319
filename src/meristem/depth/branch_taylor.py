"""Taylor of whole branches and blocks: those go whose removal the loss does not answer to, at first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.depth.change import Remove
from meristem.depth.criterion import Closure, Cut, DepthCriterion, required, watched


@dataclass(frozen=True)
class BranchTaylor(DepthCriterion):
    """`|<dL/dy, y0 - y>|`: to first order what the loss changes by if the result y of a module becomes y0, zero for a
    branch and the module's input for a block that the identity replaces.

    That is `|dL/dm|` for a gate m = 1 that multiplies a branch: the score of Molchanov et al., CVPR 2019, arXiv
    1906.10771, with one gate for all units together (derived). One forward and one backward pass for all removals.

    Preserved: the score, if a branch's layers trade factors.
    Fails: a block is no small change, so the first order says little about what is far from linear; at the end of
    training gradients average to nothing.
    """

    predicts_loss: ClassVar[bool] = True

    def scores(self, cuts: Sequence[Cut], closure: Closure | None = None) -> Tensor:
        with watched(cuts) as kept, torch.enable_grad():
            loss = required(closure, "BranchTaylor")()
            results = [returned for calls in kept for _, returned in calls]
            gradients = iter(torch.autograd.grad(loss, results, allow_unused=True) if results else ())
        found = torch.zeros(len(cuts), dtype=torch.float64)
        for number, (cut, calls) in enumerate(zip(cuts, kept, strict=True)):
            for given, returned in calls:
                gradient = next(gradients)
                if gradient is not None:
                    change = (given if isinstance(cut, Remove) else 0) - returned.detach()
                    found[number] += (gradient.double() * change.double()).sum().cpu()
        return found.abs()
