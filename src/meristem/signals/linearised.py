"""What stands between two contractions, replaced by its derivative at zero from above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.errors import EditError

Middle = Callable[[Tensor], Tensor]
"""From newborns' pre-activations (batch, units, *spatial) to what the consumer reads of them, (batch, units, *others).

It must treat each sample and unit alone and work for any number of both. It is called several times.
"""

AT = 1e-6
"""Where the derivative is taken: a ReLU has derivative 1 there, smooth functions nearly the one at zero."""


@dataclass(frozen=True)
class Linearised:
    """The derivative of a middle at the constant `AT`.

    Attributes:
        function: the middle.
        inner, outer: spatial sizes of what goes in and comes out.
        slope: by what everything is multiplied, one number, if the derivative is nothing else; None if it mixes
            positions.
    """

    function: Middle
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    slope: Tensor | None

    def push(self, z: Tensor) -> Tensor:
        """The derivative applied to (batch, units, *inner): (batch, units, *outer)."""
        return _pushing(self.function, z)(z) if self.slope is None else z * self.slope

    def pull(self, gradient: Tensor) -> Tensor:
        """Its transpose applied to (batch, units, *outer): (batch, units, *inner)."""
        if self.slope is not None:
            return gradient * self.slope
        z, h = _at(self.function, gradient.new_empty(*gradient.shape[:2], *self.inner))
        return torch.autograd.grad(h, z, gradient, materialize_grads=True)[0]


def linearise(middle: Middle | None, spatial: Sequence[int], like: Tensor) -> Linearised:
    """Takes the derivative of a middle, and looks, with four samples of two units, whether it multiplies by a constant.

    Args:
        middle: None for the identity.
        spatial: the spatial size that goes in.
        like: a tensor of the dtype and device.

    Raises:
        EditError: the middle mixes samples or units, as a batch normalization in train mode does.
    """
    inner = tuple(spatial)
    if middle is None:
        return Linearised(torch.clone, inner, inner, like.new_ones(()))
    generator = torch.Generator().manual_seed(0)
    drawn = (1 + torch.rand(4, 2, *inner, generator=generator, dtype=torch.float64)).to(like)
    drawn[2, 1:] = drawn[3] = 0  # one unit of the third sample is alone
    answer = _pushing(middle, drawn)(drawn)
    if answer.shape[:2] != drawn.shape[:2] or answer[2, 1:].any() or answer[3].any():
        raise EditError(
            f"expected a middle that maps (batch, units, ...) to (batch, units, ...), each sample and unit alone, got "
            f"one that maps {tuple(drawn.shape)} to {tuple(answer.shape)} or mixes them; leave normalizations out or "
            "put them in eval mode"
        )
    outer = tuple(answer.shape[2:])
    if outer == inner:
        slope = (answer[:2] / drawn[:2]).mean()
        if torch.allclose(answer, drawn * slope, rtol=1e-5, atol=0):
            return Linearised(middle, inner, outer, slope)
    return Linearised(middle, inner, outer, None)


def pointwise(middle: Middle, spatial: Sequence[int], like: Tensor) -> Linearised:
    """As `linearise`, of a middle that is known to be one function of each number."""
    inner = tuple(spatial)
    z, h = _at(middle, like.new_empty(1, 1, *(1 for _ in inner)))
    return Linearised(middle, inner, inner, torch.autograd.grad(h, z, torch.ones_like(h))[0].sum())


def _at(function: Middle, like: Tensor) -> tuple[Tensor, Tensor]:
    """The constant `AT` and what the function makes of it, with a graph in between."""
    with torch.enable_grad():
        z = torch.full_like(like, AT, requires_grad=True)
        return z, function(z.clone())  # a clone, because the function may work in place


def _pushing(function: Middle, like: Tensor) -> Middle:
    """The derivative times tangents: the transpose of the transpose, which more operators know than forward mode."""
    z, h = _at(function, like)
    with torch.enable_grad():
        gradient = torch.zeros_like(h, requires_grad=True)
        pulled = torch.autograd.grad(h, z, gradient, create_graph=True, materialize_grads=True)[0]

    def push(tangent: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, gradient, tangent, retain_graph=True, materialize_grads=True)[0]

    return push
