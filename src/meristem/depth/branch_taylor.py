"""Taylor of whole branches and blocks: those go whose removal the loss does not answer to, at first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.depth.change import Remove
from meristem.depth.columns import Columns, answer, columns
from meristem.depth.criterion import Closure, Cut, DepthCriterion, concatenated, required, watched
from meristem.errors import EditError


@dataclass(frozen=True)
class BranchTaylor(DepthCriterion):
    """`|<dL/dy, y0 - y>|`: to first order what the loss changes by if the result y of a module becomes y0, zero for a
    branch and the module's input for a block that the identity replaces.

    That is `|dL/dm|` for a gate m = 1 that multiplies a branch: the score of Molchanov et al., CVPR 2019, arXiv
    1906.10771, with one gate for all units together (derived). A branch of a concatenation takes its units along, so
    its gate stands at what reads them: `|<dL/dW, W>|` over the columns W (derived; the same number where nothing but
    multiples stand between). One forward and one backward pass for all removals.

    Preserved: the score, if a branch's layers trade factors.
    Fails: a block is no small change, so the first order says little about what is far from linear; at the end of
    training gradients average to nothing.

    Raises:
        EditError: units of a branch of a concatenation meet others before anything reads them, in a normalization, say.
    """

    predicts_loss: ClassVar[bool] = True

    def scores(self, cuts: Sequence[Cut], closure: Closure | None = None) -> Tensor:
        loss = required(closure, "BranchTaylor")
        if not cuts:
            return torch.zeros(0, dtype=torch.float64)
        read = [_columns(cut) for cut in cuts]
        tensors = dict(cuts[0].places.model.named_parameters())
        readers = list(dict.fromkeys(one.name for own in read for one in own))
        with watched(cuts) as kept, torch.enable_grad():
            value = loss()
            results = [returned for calls in kept for _, returned in calls]
            found = torch.autograd.grad(value, [*results, *map(tensors.__getitem__, readers)], allow_unused=True)
        gradients = iter(found)
        changes = [[(given, returned, next(gradients)) for given, returned in calls] for calls in kept]
        answers = {name: gradient for name, gradient in zip(readers, gradients, strict=True) if gradient is not None}
        scores = [
            answer(own, tensors, answers) if own else _first_order(isinstance(cut, Remove), calls)
            for cut, own, calls in zip(cuts, read, changes, strict=True)
        ]
        return torch.stack(scores).abs()


def _columns(cut: Cut) -> tuple[Columns, ...]:
    """Where the gate of a branch of a concatenation stands. Raises `EditError` if a parameter there has no gradient."""
    branch = concatenated(cut)
    found = () if branch is None else columns(cut.places.axes, branch)
    for one in found:
        if not cut.places.model.get_parameter(one.name).requires_grad:
            raise EditError(f"BranchTaylor needs the gradient of {one.name}, which requires none")
    return found


def _first_order(whole: bool, calls: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
    """`<dL/dy, y0 - y>`, for what a module is given and returns in each call; float64, on the CPU."""
    total = torch.zeros((), dtype=torch.float64)
    for given, returned, gradient in calls:
        if gradient is not None:
            change = (given if whole else 0) - returned.detach()
            total += (gradient.double() * change.double()).sum().cpu()
    return total
