"""The modules that depth edits build around others, beside those of `torch.nn`.

They have no state of their own, can be exported and compiled, and take whatever arguments their neighbours are called
with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Chain(nn.Sequential):
    """Its children one after the other; without any, what it is given. Arguments but the first are passed over."""

    def forward(self, x: Tensor, *others: Any, **more: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What the last child makes of it."""
        return super().forward(x)


class Residual(Chain):
    """`x + f(x)`, where `f` is the chain of its children. Arguments but the first are passed over."""

    def forward(self, x: Tensor, *others: Any, **more: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum; the shape of `x`."""
        return x + super().forward(x)


class Fresh(nn.ModuleList):
    """Its only child, given a copy of the first tensor; without a child, the copy: an identity or a module around which
    somebody writes in place, so that others must not share the memory."""

    def forward(self, x: Tensor, *others: Any, **more: Any) -> Any:
        """What the child makes of the copy and of the other arguments; without a child these are passed over."""
        copy = x.clone()
        for child in self:
            return child(copy, *others, **more)
        return copy


class Stretch(Chain):
    """Neighbouring children of a container, held together so that a branch can stand beside all of them; when it goes,
    they are children of the container again. They keep the names that they had there."""


class Beside(nn.ModuleList):
    """The sum of what its children make of the same arguments: parallel branches."""

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """The sum; the shape of what the first child returns."""
        first, *others = self
        total = first(*given, **named)
        for child in others:
            total = total + child(*given, **named)
        return total


class Concat(nn.Module):
    """What its children make of the same arguments, side by side: parallel branches with units of their own.

    Args:
        dim: the dimension of the units in what they return.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """The concatenation."""
        return torch.cat([child(*given, **named) for child in self.children()], self.dim)

    def extra_repr(self) -> str:
        """Along which dimension."""
        return f"dim={self.dim}"


class Zero(nn.Module):
    """Zeros in the shape of the first tensor that it is given: what stands where a branch was removed. They have memory
    of their own and no gradient.

    Args:
        nones: how many times None is returned beside the zeros, as attention does for weights that nobody asked for;
            with 0 (the default) the zeros alone are returned.
    """

    def __init__(self, nones: int = 0) -> None:
        super().__init__()
        self.nones = nones

    def forward(self, *given: Any, **named: Any) -> Any:
        """The zeros, or a tuple of the zeros and Nones."""
        zeros = torch.zeros_like(next(_tensors((*given, *named.values()))))
        return (zeros, *([None] * self.nones)) if self.nones else zeros

    def extra_repr(self) -> str:
        """What differs from the default."""
        return f"nones={self.nones}" if self.nones else ""


class Empty(nn.Module):
    """No units: what stands where a branch of a concatenation was removed.

    Args:
        dim: the dimension of the units; the other lengths are those of the first tensor that it is given. None (the
            default): a tensor of shape (0,), which `torch.cat` passes over, for branches that change other lengths.
        nones: how many times None is returned beside it, as for `Zero`.
    """

    def __init__(self, dim: int | None = None, nones: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.nones = nones

    def forward(self, *given: Any, **named: Any) -> Any:
        """A tensor without entries, or a tuple of that and Nones."""
        first = next(_tensors((*given, *named.values())))
        shape = [0] if self.dim is None else list(first.shape)
        if self.dim is not None:
            shape[self.dim] = 0
        empty = first.new_empty(shape)
        return (empty, *([None] * self.nones)) if self.nones else empty

    def extra_repr(self) -> str:
        """Along which dimension, and what differs from the default."""
        return f"dim={self.dim}" + (f", nones={self.nones}" if self.nones else "")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """All tensors among arguments, in lists, too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


JOINTS = {kind.__name__: kind for kind in (Chain, Residual, Fresh, Stretch, Beside, Concat, Zero, Empty)}
