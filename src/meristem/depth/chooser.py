"""Which of several insertions is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.depth.arrange import Arrange
from meristem.depth.change import Insert
from meristem.depth.gain import cost, predicted_gains
from meristem.depth.parallel import AddBranch, ConcatBranch
from meristem.edit.deepen import DepthChange
from meristem.edit.joints import Beside, Concat
from meristem.signals import View


class Chooser(ABC):
    """Scores possible insertions; the one with the highest score is made, of equal ones the first. Frozen dataclasses
    of settings implement it."""

    requires_closure: ClassVar[bool] = False
    """Whether it evaluates the loss, by the closure of the view."""

    @abstractmethod
    def scores(self, view: View, changes: Sequence[DepthChange]) -> Tensor:
        """Float64 of shape (len(changes),) on the CPU.

        Args:
            view: the model today.
            changes: insertions of one layer each, in the order of the model.
        """


@dataclass(frozen=True)
class Evenly(Chooser):
    """Where there is least: the run with the fewest blocks, the container with the fewest children, the module with the
    fewest branches beside it that an edit has put there.

    With blocks this is the round robin of AutoGrow (Wen et al., KDD 2020, arXiv 1906.02909): from 1-1-1 the stages grow
    to 2-1-1, 2-2-1, 2-2-2. (That it needs no memory is derived.) For modules among layers that are no children of a
    container the first place is as good as any: name one by `at`, or use another chooser.
    """

    def scores(self, view: View, changes: Sequence[DepthChange]) -> Tensor:
        """Minus the number of blocks, children or branches."""
        return torch.tensor([-self._standing(change) for change in changes], dtype=torch.float64)

    def _standing(self, change: DepthChange) -> int:
        if isinstance(change, Arrange):
            return len(change.places.run(change.at))
        if isinstance(change, Insert):
            inside = change.places.insertion(change.at).inside
            return 1 if inside is None else len(change.places.containers[inside].names)
        if isinstance(change, (AddBranch, ConcatBranch)):
            around = change.places.model.get_submodule(change.module.rpartition(".")[0])
            return len(around._modules) if isinstance(around, (Beside, Concat)) else 1
        return 1


@dataclass(frozen=True)
class AtRandom(Chooser):
    """Anywhere, with equal chances; a function of the controller's seed and the step."""

    def scores(self, view: View, changes: Sequence[DepthChange]) -> Tensor:
        """Uniform random numbers."""
        return torch.rand(len(changes), generator=view.generator, dtype=torch.float64)


@dataclass(frozen=True)
class ByGain(Chooser):
    """Where the loss is predicted to fall most per floating-point operation of a forward pass that the layer adds.

    Each insertion is put in place, the loss computed with its gradient, and everything taken back, see
    `predicted_gains`: one forward and one backward pass for each, and a trace for its cost.

    Raises:
        EditError: an insertion changes the function, so that no gain is predicted.

    Fails: on several ranks with closures that give different losses each would choose for itself; let the closure
    compute the same everywhere.
    """

    requires_closure: ClassVar[bool] = True

    def scores(self, view: View, changes: Sequence[DepthChange]) -> Tensor:
        """Predicted gains per FLOP."""
        gains = predicted_gains(view.axes, changes, view.closure)
        return gains / torch.tensor([max(cost(view.axes, change).flops, 1) for change in changes], dtype=torch.float64)
