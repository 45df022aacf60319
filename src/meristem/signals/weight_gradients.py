"""Gradients of weights as the backward pass brings them: what a statistic need not compute a second time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from meristem.axes.expression import Leaf
from meristem.axes.map import Axis, AxisMap, Role
from meristem.signals.backward import Backward
from meristem.signals.precision import wide
from meristem.signals.slices import index_norms, sum_by_unit
from meristem.signals.statistic import Accumulator


class Learner(Accumulator):
    """An accumulator that is shown the gradients of weights, too."""

    @abstractmethod
    def weights(self, axes: AxisMap, axis: Axis) -> Iterable[str]:
        """The names of the weights whose gradients it wants. Called once, before anything is added."""

    @abstractmethod
    def learn(self, weight: str, gradient: Tensor) -> None:
        """Take in the gradient that one backward pass gives one of these weights, over all its uses in the pass.

        Others are given the same tensor: it is not to be modified.
        """


def hear_weights(
    model: nn.Module, learners: Mapping[str, Sequence[Learner]], factor: Callable[[], float]
) -> list[RemovableHandle]:
    """Show learners the gradients of weights, by hooks on the parameters themselves.

    Gradients are those of single backward passes that train (see `Backward`), whatever `.grad` holds already and before
    anything is clipped. Weights that do not require gradients are not heard.

    Args:
        model: the model.
        learners: by the name of a weight, who wants its gradients.
        factor: what gradients are to be divided by.

    Returns:
        the hooks; remove them to stop.
    """
    weights = {name: model.get_parameter(name) for name in learners}
    backward = Backward(model)
    return [
        weight.register_hook(backward.only(shown(name, learners[name], factor)))
        for name, weight in weights.items()
        if weight.requires_grad
    ]


def shown(
    name: str, learners: Sequence[Learner], factor: Callable[[], float], seen: Callable[[str], object] = str
) -> Callable[[Tensor], None]:
    """The hook for one weight. Also calls `seen` with its name."""

    def hook(gradient: Tensor) -> None:
        seen(name)
        by = factor()
        # as long as this very object is held, autograd copies it instead of making it `.grad`, which others modify
        found = gradient.detach() if gradient.requires_grad else gradient
        found = found if by == 1 else found.to(wide(found)) / by
        for learner in learners:
            learner.learn(name, found)

    return hook


def in_step(gradients: Mapping[str, Tensor], model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies that ranks can sum: of these weights in this order, float32 or better, zeros for those that got none."""
    weights = {name: model.get_parameter(name).detach() for name in names}
    found = {name: gradients.get(name, torch.zeros_like(weight)) for name, weight in weights.items()}
    return {name: gradient.to(wide(gradient), copy=True) for name, gradient in found.items()}


def weights_of(axes: AxisMap, axis: Axis) -> tuple[str, ...]:
    """The names of the weights that produce an axis or read it."""
    places = axes.places[axis.index]
    found = [p.layout.name for p in places if not p.layout.buffer and p.roles & {Role.PRODUCES, Role.READS}]
    return tuple(dict.fromkeys(found))


def slice_norms(tensors: Mapping[str, Tensor], axes: AxisMap, axis: Axis, role: Role) -> Tensor:
    """As `unit_norms`, of tensors that have the shapes of weights: their gradients, say.

    Args:
        tensors: by the name of a weight, on one device; weights that are missing count as zero.
        axes, axis: whose units.
        role: PRODUCES for the fan-in of each unit, READS for its fan-out.

    Returns:
        float64, shape (axis.size,).
    """
    return Slices(axes, axis, role).squares(tensors).double().sqrt()


class Slices:
    """Where the slices lie that produce the units of an axis, or that read them: looked up once, for many tensors.

    Args:
        axes, axis: whose units.
        role: PRODUCES for the fan-in of each unit, READS for its fan-out.
        weight: only those in this weight; None for all.
    """

    def __init__(self, axes: AxisMap, axis: Axis, role: Role, weight: str | None = None) -> None:
        self._axes, self._axis = axes, axis
        self._places = [
            (place, isinstance(place.layout.dims[place.dim], Leaf))
            for place in axes.places[axis.index]
            if role in place.roles and weight in (None, place.layout.name)
        ]

    def squares(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The squares of `slice_norms`, in float32 or better."""
        squares: Tensor | None = None
        for place, alone in self._places:
            tensor = tensors.get(place.layout.name)
            if tensor is not None:
                here = _squares(tensor, place.dim)
                if not alone:
                    here = sum_by_unit(here.double(), self._axes, self._axis, place)
                squares = here if squares is None else squares.double() + here
        return torch.zeros(self._axis.size) if squares is None else squares


def _squares(tensor: Tensor, dim: int) -> Tensor:
    """Sums of squares over all dimensions but one, in as few calls and as little memory as there is a way to."""
    dims = tensor.dim()
    others = [other for other in range(dims) if other != dim]
    dtype = None if tensor.dtype is torch.float32 else wide(tensor)
    if dim == 0 and others:
        return torch.linalg.vector_norm(tensor, 2, others, dtype=dtype).square_()
    if tensor.numel() > _SMALL or not others:
        return index_norms(tensor, dim, 2)
    return (tensor if dtype is None else tensor.to(dtype)).square().sum(others)


_SMALL = 2**18
"""Up to how many entries a tensor is squared at once."""
