"""Net2Wider: newborns are copies of incumbents, which share their fan-out with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Coupling, Role
from meristem.edit import Gather, Newborns, Slice
from meristem.errors import ConfigError, EditError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.shares import shares
from meristem.grow.parts.zero_sum import ZeroSum
from meristem.signals import View


@dataclass(frozen=True)
class Net2Wider(Newborns, Method):
    """Each newborn copies a parent drawn uniformly; a fan-out weight is divided among the r units that share it.

    Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, arXiv 1511.05641, section 2.2: with `g(j) = j` for incumbents and
    `g(j) ~ U{0..n-1}` for newborns, and `r(i) = |{j : g(j) = i}|`,

        fan-in, carried:  W'[j] = W[g(j)]          fan-out:  W'[:, j] = a_j W[:, g(j)],  a_j = 1 / r(g(j))

    Any shares that add up to 1 among the copies of one unit preserve the function. With a `ratio` other than 1 they
    differ, as in Wang et al., "LEMON", ICLR 2024, arXiv 2310.07999: each copy's share is `ratio` times that of the copy
    before it (of two copies, `1 / (1 + ratio)` and `ratio / (1 + ratio)`), so that their gradients differ in size.

    Then `dL/dW'[j] = a_j dL/dW[g(j)]` for fan-in and `dL/dW'[:, j] = dL/dW[:, g(j)]` for fan-out, so optimizer state
    moves exactly: first moments of fan-in are multiplied by a_j, second moments by a_j ** 2, those of fan-out stay.

    Preserved: the function, in train and eval mode, on axes without couplings (behind BatchNorm too); under LayerNorm,
    softmax over the axis, readers with weight norm and the like it is only approximate, which the plan says.
    Fails: equal copies of one parent get equal gradients and stay equal until something tells them apart, such as
    dropout; without that, growth adds size but no capacity. An uneven split parts them under SGD; optimizers that
    divide by the size of the gradient, such as Adam, move uneven copies alike. `noise` on the fan-out parts them under
    any optimizer, and the function stays, because it adds up to 0 over the copies of one unit (Samragh et al.,
    arXiv 2409.12903); fan-in state then is right only up to the share of the noise in the gradient.

    Args:
        ratio: the share of each copy over that of the copy before it, above 0. 1: equal shares.
        noise: standard deviation of the noise in units of the root mean square of the weights that it is added to, at
            least 0. Paper: unspecified; 0.01 is plenty. Default: none.

    Raises:
        ConfigError: the ratio is not above 0, or the noise below.
        EditError: (from the controller) the axis has no fan-out to divide: no weights read it, two activations are
            contracted over it, or one tensor both produces and reads it.
    """

    ratio: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.ratio < float("inf") and 0 <= self.noise < float("inf")):
            raise ConfigError(
                f"Net2Wider: expected a ratio above 0 and noise of at least 0, got {self.ratio} and {self.noise}"
            )

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return no_fan_out_to_divide(axes, axis)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        parents = torch.randint(axis.size, (count,), generator=view.generator).tolist()
        gather = Gather.duplicate(axis.size, parents)
        return Growth(axis, gather, ZeroSum.of(view, axis, gather, self, self.noise) if self.noise else self)

    def values(self, s: Slice) -> Tensor:
        raise EditError("Net2Wider copies incumbents; it has no values for units without a source")

    def weight_factor(self, s: Slice) -> Tensor | None:
        return shares(s.sources, self.ratio) if Role.READS in s.roles else None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        return None if Role.READS in s.roles else shares(s.sources, self.ratio)


def no_fan_out_to_divide(axes: AxisMap, axis: Axis) -> str | None:
    """Why copies of a unit cannot share its fan-out, or None if they can."""
    roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
    if Coupling.BILINEAR in axis.couplings:
        return "two activations are contracted over it, so there is no fan-out to divide among copies"
    if not any(Role.READS in found for found in roles):
        return "no weights read it, so there is no fan-out to divide among copies"
    if any({Role.PRODUCES, Role.READS} <= found for found in roles):
        return "one tensor both produces and reads it, so its fan-out cannot be divided alone"
    return None
