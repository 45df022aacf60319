"""Net2Wider: newborns are copies of incumbents, which share their fan-out with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Coupling, Role
from meristem.edit import Gather, Newborns, Slice
from meristem.errors import EditError
from meristem.grow.method import Growth, Method
from meristem.signals import View


@dataclass(frozen=True)
class Net2Wider(Newborns, Method):
    """Each newborn copies a parent drawn uniformly; a fan-out weight is divided by the number r of units that share it.

    Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, arXiv 1511.05641, section 2.2: with `g(j) = j` for incumbents and
    `g(j) ~ U{0..n-1}` for newborns, and `r(i) = |{j : g(j) = i}|`,

        fan-in, carried:  W'[j] = W[g(j)]          fan-out:  W'[:, j] = W[:, g(j)] / r(g(j))

    Then `dL/dW'[j] = dL/dW[g(j)] / r` for fan-in and `dL/dW'[:, j] = dL/dW[:, g(j)]` for fan-out, so optimizer state
    moves exactly: first moments of fan-in are divided by r, second moments by r ** 2, those of fan-out stay.

    Preserved: the function, in train and eval mode, on axes without couplings (behind BatchNorm too); under LayerNorm,
    softmax over the axis and the like it is only approximate, which the plan says.
    Fails: copies of one parent get equal gradients and stay equal until something tells them apart, such as dropout;
    without that, growth adds size but no capacity.

    Raises:
        EditError: (from the controller) the axis has no fan-out to divide: no weights read it, two activations are
            contracted over it, or one tensor both produces and reads it.
    """

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
        if Coupling.BILINEAR in axis.couplings:
            return "two activations are contracted over it, so there is no fan-out to divide among copies"
        if not any(Role.READS in found for found in roles):
            return "no weights read it, so there is no fan-out to divide among copies"
        if any({Role.PRODUCES, Role.READS} <= found for found in roles):
            return "one tensor both produces and reads it, so its fan-out cannot be divided alone"
        return None

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        parents = torch.randint(axis.size, (count,), generator=view.generator).tolist()
        return Growth(axis, Gather.duplicate(axis.size, parents), self)

    def values(self, s: Slice) -> Tensor:
        raise EditError("Net2Wider copies incumbents; it has no values for units without a source")

    def weight_factor(self, s: Slice) -> Tensor | None:
        return 1 / _multiplicity(s) if Role.READS in s.roles else None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        return None if Role.READS in s.roles else 1 / _multiplicity(s)


def _multiplicity(s: Slice) -> Tensor:
    """How many new indices copy the same old one, for each new index: shape (new length,), float64."""
    sources = s.sources.clamp(min=0)
    return torch.bincount(sources)[sources].double()
