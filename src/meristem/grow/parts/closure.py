"""The loss and its gradients while an edit is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.edit import Trial
from meristem.errors import ConfigError, SignalError
from meristem.signals import View
from meristem.signals.finite import require_finite
from meristem.signals.twice import twice_differentiable


def gradients(view: View, parameters: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """The gradients of the loss on one batch, another one at every call if the closure draws batches at random; zeros
    for parameters that are frozen or have no part in it.

    Args:
        view: whose closure is evaluated once.
        parameters: leaves.
        create_graph: whether the gradients can be differentiated again.

    Raises:
        ConfigError: there is no closure.
        SignalError: the closure did not give one finite number with a graph, or its gradient is not finite.
    """
    live = [p for p in parameters if p.requires_grad]
    kernels = twice_differentiable() if create_graph else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), kernels:
        loss = _loss(view)
        try:
            found = torch.autograd.grad(loss, live, create_graph=create_graph, allow_unused=True) if live else ()
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            raise SignalError(
                "the closure must return the loss without a backward pass; the graph of the loss that it returned was "
                "used up by one"
            ) from error
    by_id = {id(p): g for p, g in zip(live, found, strict=True) if g is not None}
    names = {id(p): name for name, p in view.axes.model.named_parameters()}
    for key, gradient in by_id.items():
        require_finite(
            gradient.detach(),
            f"the gradient of the closure's loss with respect to {names.get(key, 'a tensor of the method')}",
        )
    return [by_id.get(id(p), torch.zeros_like(p)) for p in parameters]


def pulled_back(view: View, trial: Trial, tensors: Mapping[str, Tensor], onto: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the loss on one batch with respect to what parameters are computed from.

    Args:
        view: whose closure is evaluated once.
        trial: in which the parameters get these values.
        tensors: by name what is put in the parameters' place, computed from `onto` with a graph.
        onto: leaves.
    """
    found = zip(tensors.values(), gradients(view, placed(trial, tensors)), strict=True)
    trained = [(tensor, gradient.to(tensor)) for tensor, gradient in found if tensor.requires_grad]
    back = torch.autograd.grad([t for t, _ in trained], onto, [g for _, g in trained], allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(onto, back, strict=True)]


def placed(trial: Trial, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Give the parameters of a trial these values; returns the parameters."""
    parameters: list[Tensor] = []
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in tensors.items():
            parameter = trial.parameter(name)
            parameter.copy_(tensor)
            parameters.append(parameter)
    return parameters


def reseeded(view: View, axis: Axis) -> View:
    """The view with a generator at its beginning, so that gains and plans are about the same newborns."""
    return replace(view, generator=torch.Generator().manual_seed(seed_of(view, axis)))


def seed_of(view: View, axis: Axis) -> int:
    """A seed for one axis at one step."""
    return (view.generator.initial_seed() + axis.index) % 2**63


def require_closure(view: View) -> None:
    """Raise `ConfigError` if the loss cannot be evaluated."""
    if view.closure is not None and not callable(view.closure):
        raise ConfigError(
            f"the closure of plasticity.step(loss, closure) must be a function that computes the loss and returns it, "
            f"got {type(view.closure).__name__}"
        )
    if view.closure is None:
        raise ConfigError(
            "this growth method evaluates the loss itself: call plasticity.step(loss, closure) with a function that "
            "runs the model on a batch and returns the loss"
        )


def evaluated(view: View, seed: int) -> Tensor:
    """The loss, with torch's global generators seeded while the closure runs, and afterwards as they were.

    A closure that draws its batch from them gives the same batch for the same seed, and so does dropout.
    """
    require_closure(view)
    assert view.closure is not None
    with torch.random.fork_rng(devices=view.devices):
        torch.manual_seed(seed)
        return view.closure()


def _loss(view: View) -> Tensor:
    loss = evaluated(view, int(torch.randint(2**62, (), generator=view.generator)))
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise SignalError(
            f"the closure must run the model and return the loss, one number with its graph; it returned {got}"
            f"{'' if getattr(loss, 'requires_grad', True) else ' without a graph (is it detached, or under no_grad?)'}"
        )
    if not bool(loss.detach().isfinite().all()):
        raise SignalError(f"the closure returned a loss of {float(loss.detach())}; newborns cannot be judged by it")
    return loss.reshape(())
