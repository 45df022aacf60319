"""What a normalization over an axis computes, found out by trying it on numbers, whatever it is called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meristem.axes.expression import Leaf
from meristem.axes.flow import Version, record_flow
from meristem.axes.map import Axis, AxisMap, Role
from meristem.errors import EditError

_TOLERANCE = 1e-3
"""Relative; what epsilon changes at a variance of 1 is far less, what another formula changes far more."""


@dataclass(frozen=True)
class Norm:
    """`weight * (x - centred * mean(x)) / sqrt(variance + eps) + bias` over all units of one axis.

    Attributes:
        weight, bias: the names of its tensors; a bias of None is none.
        centred: whether the mean is subtracted (LayerNorm) or not (RMSNorm: the variance is then the mean square).
        eps: what is added to the variance.
    """

    weight: str
    bias: str | None
    centred: bool
    eps: float


def norms(axes: AxisMap, axis: Axis) -> tuple[Norm, ...]:
    """The normalizations with a scale whose tensors are laid out over this axis alone."""
    found = []
    for place in axes.places[axis.index]:
        layout = place.layout
        if not layout.buffer and place.roles == {Role.CARRIES} and layout.dims == (Leaf(axis.index),):
            owner = axes.model.get_submodule(layout.name.rpartition(".")[0])
            norm = _recognized(owner, layout.name)
            found += [] if norm is None else [norm]
    return tuple(found)


def chained(axes: AxisMap, axis: Axis, found: Iterable[Norm]) -> tuple[str, ...]:
    """The scales of those normalizations of which another one, or the same once more, is given what they answer without
    a weight that reads the axis in between: through a sum, say, as in transformers that normalize last.

    Raises:
        EditError: the map holds no example to run the model on.
    """
    if not axes.examples:
        raise EditError("this map holds no example to follow normalizations with; make one with meristem.trace")
    scales = {norm.weight for norm in found}
    readers = {place.layout.name for place in axes.places[axis.index] if Role.READS in place.roles}
    after: dict[str, None] = {}
    for example in axes.examples:
        flow = record_flow(axes.model, example)
        named = {number: name for name, number in flow.recording.named.items()}
        come: dict[Version, frozenset[str]] = {}
        for read, written in zip(flow.reads, flow.writes, strict=True):
            names = {named[version.number] for version in read if version.number in named}
            origins = frozenset[str]().union(*(come.get(version, ()) for version in read))
            if names & scales:
                after.update(dict.fromkeys(sorted(origins)))
                origins = frozenset(names & scales)
            come.update(dict.fromkeys(written, frozenset() if names & readers else origins))
    return tuple(after)


def _recognized(owner: nn.Module, weight: str) -> Norm | None:
    """The normalization that a module computes if this tensor is its scale, or None."""
    prefix, _, own = weight.rpartition(".")
    parameters = dict(owner.named_parameters())
    scale = parameters.get(own)
    others = [name for name in parameters if name != own]
    if scale is None or len(scale) < 2 or len(others) > 1 or any(parameters[n].shape != scale.shape for n in others):
        return None
    bias = parameters[others[0]].detach().to("cpu", torch.float64) if others else 0.0
    module = copy.deepcopy(owner).to("cpu", torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(scale), dtype=torch.float64, generator=generator) + 0.5
    weights = scale.detach().to("cpu", torch.float64)
    with torch.no_grad():
        for centred in (True, False):
            expected = weights * _divided(x, centred) + bias
            answer = _answer(module, x)
            if answer is not None and torch.allclose(answer, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                if _answer(module, x[:, :, None].expand(-1, -1, len(scale) + 1)) is not None:
                    return None  # it normalizes over positions as well
                where = f"{prefix}." if prefix else ""
                return Norm(
                    weight, where + others[0] if others else None, centred, _epsilon(module, x, centred, weights, bias)
                )
    return None


def _answer(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """What a module answers, or None if it cannot take this input."""
    try:
        answer = module(x)
    except Exception:  # any module may stand here, and may raise anything
        return None
    return answer if isinstance(answer, Tensor) and answer.shape == x.shape else None


def _moments(x: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x, x.square().mean(-1, keepdim=True)


def _divided(x: Tensor, centred: bool) -> Tensor:
    x, variance = _moments(x, centred)
    return x / variance.sqrt()


def _epsilon(module: nn.Module, x: Tensor, centred: bool, weights: Tensor, bias: Tensor | float) -> float:
    """From the answer to small numbers: `(x / answer) ** 2 = variance + eps`, at the entry that answers loudest."""
    small, variance = _moments(1e-3 * x, centred)
    answer = module(1e-3 * x) - bias
    loudest = answer[0].abs().argmax()
    eps = (weights[loudest] * small[0, loudest] / answer[0, loudest]) ** 2 - variance[0, 0]
    return max(float(eps), 0.0)
