"""What a trained model shows on some batches of data, without being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meristem.axes import AxisMap
from meristem.errors import ConfigError
from meristem.prune.trained import FROZEN, all_frozen
from meristem.signals import Running, Statistic
from meristem.signals.direct import Recording
from meristem.signals.reads import Reads

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""The loss of a model on one batch, a scalar with a graph."""


def supervised(model: nn.Module, batch: Any, *, other: str = "loss=f(model, batch)") -> Tensor:
    """The loss of an ordinary supervised batch, moved to the device of the model: cross entropy of `model(inputs)` for
    a pair `(inputs, labels)`, the `loss` of the output for a batch by name, as Hugging Face's models take it.

    Args:
        model: the model.
        batch: the batch.
        other: how another loss is given, for messages.

    Raises:
        ConfigError: the batch is neither, or the output has no loss.
    """
    device = next(model.parameters()).device
    if isinstance(batch, Mapping):
        named = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        found = getattr(model(**named), "loss", None)
        if not isinstance(found, Tensor):
            raise ConfigError(f"the model's output has no `loss`: put labels into the batches, or give {other}")
        return found
    if isinstance(batch, Sequence) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        output = model(batch[0].to(device))
        return cross_entropy(getattr(output, "logits", output), batch[1].to(device))
    raise ConfigError(
        f"expected batches that are pairs (inputs, labels) or dicts with labels, got {type(batch).__name__}; for "
        f"others give {other}"
    )


def taken(batches: Iterable[Any] | None, count: int, asker: str) -> list[Any]:
    """The first batches.

    Args:
        batches: can be iterated anew each time, such as a `DataLoader`; None where there is no data.
        count: how many at most.
        asker: who needs them, for the message.

    Raises:
        ConfigError: there are none.
    """
    if batches is None:
        raise ConfigError(f"{asker} looks at data: give batches=, a DataLoader or a list of batches")
    found = list(islice(batches, count))
    if not found:
        raise ConfigError(
            f"{asker} looks at data, but batches= gave none; give what can be iterated anew, a DataLoader"
        )
    return found


def scalar(found: Any) -> Tensor:
    """What a loss gave. Raises `ConfigError` if it is no scalar tensor."""
    if isinstance(found, Tensor) and found.numel() == 1:
        return found
    got = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise ConfigError(f"a loss is a scalar tensor, the mean over the samples of a batch; loss(model, batch) gave {got}")


def require_graph(found: Tensor) -> None:
    """Raise `ConfigError` if no gradients come from a loss."""
    if not found.requires_grad:
        raise ConfigError(
            "the loss has no graph: let loss(model, batch) return it without detach() or item(), and not under "
            "torch.no_grad(); or no parameter that it depends on has requires_grad=True"
        )


def _require_finite(found: Tensor, number: int) -> None:
    """Raise `ConfigError` if a loss says nothing, because it is NaN or infinite."""
    if not bool(found.isfinite()):
        raise ConfigError(
            f"the loss of batch {number} is {float(found.detach())}, so that it says nothing about units: look for NaN "
            "and infinite values in that batch (`torch.isfinite(x).all()`) and in the weights of the model"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards modes and gradients are as they were."""
    modes = {module: module.training for module in model.modules()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def evidence(
    axes: AxisMap, statistics: Sequence[Statistic], batches: Sequence[Any], loss: Loss
) -> Mapping[Statistic, Any]:
    """The results of statistics over batches: a forward and a backward pass each, in eval mode; the model stays as it
    was, gradients included. Every batch counts as a step. Of a model that is all frozen only what is read is heard, in
    forward passes alone.

    Raises:
        ConfigError: a statistic is one that is averaged all through training, or made of gradients while the model is
            all frozen; or the loss is no finite scalar with a graph.
        SignalError: something could not be heard.
    """
    running = [statistic for statistic in statistics if isinstance(statistic, Running)]
    if running:
        raise ConfigError(f"{running[0]} is averaged while a model trains: use a criterion that is not, or Plasticity")
    model, frozen = axes.model, all_frozen(axes)
    graded = [statistic for statistic in statistics if not isinstance(statistic, Reads)]
    if frozen and graded:
        raise ConfigError(f"{graded[0]} is made of gradients: {FROZEN}")
    recording = Recording(axes, statistics, steps=len(batches))
    try:
        with evaluating(model), torch.enable_grad():
            for number, batch in enumerate(batches, start=1):
                if number == len(batches):
                    recording.closing()
                model.zero_grad(set_to_none=True)
                found = scalar(loss(model, batch))
                _require_finite(found, number)
                if not frozen:
                    require_graph(found)
                    found.backward()
                recording.stepped()
        return recording.finish()
    finally:
        recording.cancel()
