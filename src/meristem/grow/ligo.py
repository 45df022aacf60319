"""LiGO: the gather of an edit, learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meristem.edit import Commit, Edit
from meristem.edit.journal import Overwrite, Step
from meristem.errors import ConfigError
from meristem.grow.parts.closure import gradients
from meristem.grow.parts.learned import Learned
from meristem.signals import View


@dataclass(frozen=True)
class LiGO:
    """Carries out an edit of copies with linear maps in their place, which a few steps of training have fitted.

        edit = Edit(axes, optimizer)
        ...                                     # gathers of copies, and blocks in another number or order
        axes = LiGO(steps=100).commit(edit, loss).axes

    Wang et al., "Learning to Grow Pretrained Models for Efficient Transformer Training", ICLR 2023, arXiv 2303.00980,
    section 3: all weights of the large model are linear in those of the small one,

        W'_i = sum_j w_ij B_out W_j A_in^T

    where block i of the large model blends the widened blocks j of the small one. Here B is one matrix for each axis
    of the edit, shape (units after, units before), used by all tensors that produce or carry the axis; tensors that
    read it use `A = diag(s) B`, with s the share of each copy, which ties A to the B of the layer before, as in the
    paper. w is a matrix (blocks after, blocks before) for every parameter of a block. At first B selects the unit that
    the edit copies and w the block, so that the model is that of copies with equal shares, whatever the edit's newborns
    were to start from. Then Adam fits B and w to the loss of the large model, the small model's weights stay.

    The paper shares B among layers where the map has an axis for each, and normalizes rows (derived differences). The
    noise is our own: without it copies of a unit get equal rows of B for good.

    Preserved: nothing but what copies preserve, and that only with `steps=0, noise=0`. Whatever fails, the model and
    the optimizers are as they were. Optimizer state follows as the edit says, as if the newborns were copies; models
    that follow get plain copies.
    Costs: `steps` evaluations of the loss with a backward pass; memory for the small weights and for all B and w.
    Fails: where 100 steps at the cost of the large model are a large part of all training.

    Attributes:
        steps: of training the maps. Paper: 100.
        rate: the learning rate of Adam. Default: 0.003 (our choice).
        noise: standard deviation of the noise added to the rows of newborns in B, times the root of their length.
            Default: 0.03.
        seed: of the noise and of what the loss draws.

    Raises:
        ConfigError: steps or noise below 0, or a rate that is not above 0.
        EditError: (from `commit`) the edit has newborns that are no copies, or inserts or replaces modules; and
            whatever `Edit.commit` raises.
        SignalError: (from `commit`) the loss is no finite number with a graph.
    """

    steps: int = 100
    rate: float = 3e-3
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.noise >= 0 or not self.rate > 0:
            raise ConfigError(
                f"LiGO: expected steps and noise of at least 0 and a rate above 0, got {self.steps}, {self.noise} and "
                f"{self.rate}"
            )

    def commit(self, edit: Edit, loss: Callable[[], Tensor]) -> Commit:
        """Carry out an edit with learned maps.

        Args:
            edit: what has been collected, not yet committed; all newborns and new blocks are copies.
            loss: computes the training loss and returns it, without a backward pass; best on a batch that it draws at
                random by torch's generator.

        Returns:
            as `Edit.commit`.
        """
        generator = torch.Generator().manual_seed(self.seed)
        learned = Learned.of(edit, self.noise, generator)
        view = View(edit.axes, closure=loss, generator=generator)
        return edit.commit(then=lambda: self._steps(learned, view))

    def _steps(self, learned: Learned, view: View) -> Sequence[Step]:
        """The large model is in place: train the maps in it, and say what its parameters become."""
        model = view.axes.model
        targets = learned.targets(model)
        before = [(tensor, tensor.detach().clone()) for tensor in (*targets.values(), *model.buffers())]
        optimizer = torch.optim.Adam(learned.leaves, self.rate)
        try:
            for _ in range(self.steps):
                with torch.inference_mode(False), torch.enable_grad():
                    self._step(learned, list(targets.items()), view, optimizer)
            with torch.no_grad():
                found = {name: learned.tensor(name) for name in targets}
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
        return [Overwrite.of(target, found[name]) for name, target in targets.items()]

    def _step(
        self,
        learned: Learned,
        targets: Sequence[tuple[str, nn.Parameter]],
        view: View,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        tensors = [learned.tensor(name) for name, _ in targets]
        with torch.no_grad():
            for (_, target), tensor in zip(targets, tensors, strict=True):
                target.copy_(tensor)
        found = gradients(view, [target for _, target in targets])
        linked = [(t, g.to(t)) for t, g in zip(tensors, found, strict=True) if t.requires_grad]
        back = torch.autograd.grad([t for t, _ in linked], learned.leaves, [g for _, g in linked], allow_unused=True)
        for leaf, gradient in zip(learned.leaves, back, strict=True):
            leaf.grad = gradient
        optimizer.step()
