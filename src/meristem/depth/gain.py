"""What an insertion is predicted to bring, and what a change of the module tree costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.depth.criterion import Closure, required, undisturbed
from meristem.edit import Edit
from meristem.edit.compute import gathered
from meristem.edit.deepen import DepthChange
from meristem.edit.indices import Recipe
from meristem.edit.rebuild import rebuilding
from meristem.errors import EditError


@dataclass(frozen=True)
class Cost:
    """What a change adds to a model; negative where it takes away.

    Attributes:
        parameters: their number.
        flops: floating-point operations of a forward pass on the traced example.
        bytes: memory of parameters and buffers.
    """

    parameters: int
    flops: int
    bytes: int


def cost(axes: AxisMap, change: DepthChange) -> Cost:
    """What a change adds: it is made, the model traced, and everything taken back.

    Args:
        axes: the map of the model as it is now.
        change: the change.

    Raises:
        EditError, StaleMapError: as `Edit.commit`.
    """
    found = Edit(axes).depth(change).preview()
    parameters, flops, size = (after - before for before, after in (found.parameters, found.flops, found.bytes))
    return Cost(parameters, flops, size)


def predicted_gains(axes: AxisMap, changes: Sequence[DepthChange], closure: Closure | None = None) -> Tensor:
    """By how much the loss is predicted to fall, to first order, for each insertion alone.

        gain = sum over new parameters w of (dL/dw)^2,

    the decrease of the loss by a step of gradient descent with rate 1 of the new parameters alone, to first order
    (derived). In a zero residual or a silent copy only the layer that is zero has a gradient at first; so this is
    GradMax's objective (Evci et al., ICLR 2022, arXiv 2201.05125, equation 6) for a layer instead of a unit, with the
    fan-in that the layer starts from.

    Each insertion is put in place, the loss computed on the closure's batch, with the same state of torch's generators,
    and everything taken back: one forward and one backward pass for each.

    Args:
        axes: the map of the model as it is now.
        changes: insertions that preserve the function.
        closure: computes the loss.

    Returns:
        float64, shape (len(changes),), on the CPU.

    Raises:
        EditError: one of them changes the function, so that the loss jumps before the first step.
        ConfigError: there is no closure.

    Fails: the gradient depends on the scale in which layers start, so gains of different kinds of layers are comparable
    only as far as their scales are; and what is newly built starts from other random numbers when it is really made.
    """
    loss = required(closure, "predicted_gains")
    for change in changes:
        if change.inexact():
            raise EditError(f"no gain is predicted for {change}: {', '.join(change.inexact())}")
    return torch.tensor([_gain(axes, change, loss) for change in changes], dtype=torch.float64)


def _gain(axes: AxisMap, change: DepthChange, closure: Closure) -> float:
    model = axes.model
    old = {id(parameter) for parameter in model.parameters()}
    with rebuilding(axes, change) as rebuilt:
        new = {name: p for name, p in model.named_parameters() if id(p) not in old and p.requires_grad}
        with undisturbed(model), torch.enable_grad():
            found = torch.autograd.grad(closure(), list(new.values()), allow_unused=True)
        gradients = {name: gradient for name, gradient in zip(new, found, strict=True) if gradient is not None}
        return sum(_squares(gradient, rebuilt.followed.get(name, {})) for name, gradient in gradients.items())


def _squares(gradient: Tensor, recipe: Recipe) -> float:
    """The sum of squares over what is new of a parameter: everything, or the slices of newborn units."""
    squares = gradient.double().square()
    if recipe:
        incumbent = gathered(torch.ones_like(squares), {dim: along.to(squares.device) for dim, along in recipe.items()})
        squares = squares * (1 - incumbent)
    return float(squares.sum())
