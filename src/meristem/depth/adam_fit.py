"""AdamFit: new layers are fitted until the loss is what it was before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meristem.depth.criterion import Closure, undisturbed
from meristem.edit import Commit, Edit
from meristem.edit.checks import unwrapped
from meristem.edit.journal import Overwrite, Step
from meristem.errors import ConfigError, EditError, SignalError


@dataclass(frozen=True)
class AdamFit:
    """Carries out an edit of the module tree, and fits what is new by Adam while all else stays as it is.

        edit = Edit(axes, optimizer).depth(depth.duplicated(places, "stage.2", 1, depth.AutoGrow("uniform")))
        axes = depth.AdamFit(steps=len(loader)).commit(edit, loss).axes

    The fourth initializer of Wen, Yan, Chen, Li, "AutoGrow", KDD 2020, arXiv 1906.02909. In the authors' code Adam
    (rate 0.001, weight decay 0.0005) trains scale and shift of the new block's last batch normalization for at most ten
    epochs, until the training accuracy of an epoch is no more than 0.5 points below that of before. Here (derived) it
    is the loss that is held against that of before, on the same batches, since it is known for every task; all new
    parameters are trained, whatever was inserted or copied; and what they start from is said by the edit.

    Preserved: nothing exactly; the mean loss of a round, within the tolerance, where a fit is found. Parameters that
    were there keep their values bit for bit, and all keep their optimizer state; running statistics follow, as they do
    in training. Models that follow get the fitted values. Whatever fails, everything is as it was.
    Costs: `steps` evaluations of the loss before the edit, and `rounds * steps` with a backward pass at most.
    Fails: where no values of the new parameters give back the loss; then what the last round has found stays.

    Attributes:
        steps: of a round, the number of batches of an epoch, say. Default: 100.
        rounds: at most so many. Default: 10.
        tolerance: a round is good enough if its mean loss is above that of before by no more than this share of it.
            Default: 0.01 (our choice).
        rate, decay: learning rate and weight decay of Adam. Defaults: 0.001 and 0.0005.
        seed: of what the loss draws from torch's generators.

    Raises:
        ConfigError: a setting is out of range.
        EditError: (from `commit`) the edit brings no new layers that train; and whatever `Edit.commit` raises.
        SignalError: (from `commit`) the loss is no finite number with a graph.
    """

    steps: int = 100
    rounds: int = 10
    tolerance: float = 0.01
    rate: float = 1e-3
    decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 1 or not self.rate > 0 or not (self.tolerance >= 0 and self.decay >= 0):
            raise ConfigError(
                f"AdamFit: expected at least 1 step and 1 round, a rate above 0, and a tolerance and a decay of at "
                f"least 0, got {self}"
            )

    def commit(self, edit: Edit, loss: Closure) -> Commit:
        """Carry out an edit, and fit what is new.

        Args:
            edit: what has been collected, not yet committed.
            loss: computes the training loss and returns it, without a backward pass; best on a batch that it draws at
                random by torch's generator.

        Returns:
            as `Edit.commit`.
        """
        model = edit.axes.model
        old = list(model.modules())
        with undisturbed(model), torch.no_grad():
            wanted = sum(float(_value(loss, draw)) for draw in self._draws) / self.steps
        return edit.commit(then=lambda: self._fitted(edit, old, loss, wanted))

    def _fitted(self, edit: Edit, old: Sequence[nn.Module], loss: Closure, wanted: float) -> Sequence[Step]:
        """The edit is in place: give what is new the values that are found, and say what buffers become."""
        model = edit.axes.model
        known = {id(tensor) for module in old for tensor in _own(module)}
        new = {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if id(t) not in known}
        parameters = [tensor for tensor in new.values() if tensor.requires_grad]
        if not parameters:
            raise EditError("AdamFit: this edit brings no new layer that trains, so there is nothing to fit")
        with undisturbed(model):
            with torch.inference_mode(False), torch.enable_grad():
                self._fit(parameters, loss, wanted)
            for follower in map(unwrapped, edit.follow):
                for name, tensor in new.items():
                    _tensor(follower, name).data.copy_(tensor)
            buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        return [Overwrite.of(buffer, value) for buffer, value in buffers]

    def _fit(self, parameters: Sequence[Tensor], loss: Closure, wanted: float) -> None:
        """Rounds of Adam until the mean loss of one is near enough to what is wanted."""
        adam = torch.optim.Adam(parameters, self.rate, weight_decay=self.decay)
        for _ in range(self.rounds):
            total = 0.0
            for draw in self._draws:
                value = _value(loss, draw)
                if not value.requires_grad:
                    raise SignalError("the loss has no graph; it must be returned as computed, without a backward pass")
                found = torch.autograd.grad(value, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter.grad = gradient
                adam.step()
                total += float(value.detach())
            if total / self.steps <= wanted + self.tolerance * abs(wanted):
                break
        adam.zero_grad()

    @property
    def _draws(self) -> list[int]:
        """The seeds of the batches of a round."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(2**62, (self.steps,), generator=generator).tolist()


def _value(loss: Closure, draw: int) -> Tensor:
    """The loss on one batch."""
    torch.manual_seed(draw)
    value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1 or not bool(value.detach().isfinite()):
        raise SignalError(f"the loss must be one finite number, it is {value!r}")
    return value.reshape(())


def _own(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers that a module itself holds."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _tensor(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name."""
    path, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(path), leaf)
    assert isinstance(found, Tensor), "a model that follows has what the model has"
    return found
