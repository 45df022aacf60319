"""The leading directions of the candidate gradient, which is formed, or known by what it does to vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from meristem.signals.batch import Batch
from meristem.signals.moments import gram

OVERSAMPLE = 8
"""So many directions more than asked for are followed, so that the last ones asked for are right too."""

PASSES = 1
"""Passes of the subspace iteration where each takes products with the samples. Each multiplies what separates leading
directions from the rest by its square (Halko, Martinsson, Tropp 2011, arXiv 0909.4061, section 4.5)."""

CHEAP_PASSES = 2
"""The same where only a small matrix is multiplied."""


class Gradient(ABC):
    """The candidate gradient M of everything recorded, shape (fan-out, fan-in)."""

    @abstractmethod
    def times(self, outgoing: Tensor) -> Tensor:
        """`outgoing @ M`: shape (newborns, fan-in)."""

    @abstractmethod
    def transposed(self, incoming: Tensor) -> Tensor:
        """`incoming @ M^T`: shape (newborns, fan-out)."""

    def moved(self, basis: Tensor, solve: Callable[[Tensor], Tensor] | None) -> Tensor:
        """`basis @ M @ S^-1 @ M^T`, whose rows lean towards leading directions; `solve` gives `incoming @ S^-1`."""
        incoming = self.times(basis)
        return self.transposed(incoming if solve is None else solve(incoming))


@dataclass(frozen=True, eq=False)
class Formed(Gradient):
    """It is there as a matrix."""

    matrix: Tensor

    def times(self, outgoing: Tensor) -> Tensor:
        return outgoing.to(self.matrix.dtype) @ self.matrix

    def transposed(self, incoming: Tensor) -> Tensor:
        return incoming.to(self.matrix.dtype) @ self.matrix.T

    def moved(self, basis: Tensor, solve: Callable[[Tensor], Tensor] | None) -> Tensor:
        if solve is not None or self.matrix.shape[0] > self.matrix.shape[1]:
            return super().moved(basis, solve)
        return basis.to(self.matrix.dtype) @ self._square

    @cached_property
    def _square(self) -> Tensor:
        square = self.matrix.new_empty(len(self.matrix), len(self.matrix))
        gram(self.matrix.T, square)
        return square


@dataclass(frozen=True, eq=False)
class Followed(Gradient):
    """That of the batch at hand by products with its samples, of earlier ones as far as it lay within their basis.

    Attributes:
        batch: what is there.
        basis, projected: of what came before, `basis^T @ projected`: shapes (rank, fan-out) and (rank, fan-in).
    """

    batch: Batch
    basis: Tensor | None
    projected: Tensor | None

    def times(self, outgoing: Tensor) -> Tensor:
        found = self.batch.fan_in_gradient(outgoing)
        if self.basis is None or self.projected is None:
            return found
        return found + (outgoing.to(self.basis) @ self.basis.T) @ self.projected.to(self.basis)

    def transposed(self, incoming: Tensor) -> Tensor:
        found = self.batch.fan_out_gradient(incoming)
        if self.basis is None or self.projected is None:
            return found
        return found + (incoming.to(self.basis) @ self.projected.to(self.basis).T) @ self.basis


def leading(gradient: Gradient, rows: int, rank: int, like: Tensor, solve: Callable[[Tensor], Tensor] | None) -> Tensor:
    """An orthonormal basis of fan-out directions that holds the leading ones, by subspace iteration from random ones.

    Args:
        gradient: M.
        rows: the width of a fan-out.
        rank: how many directions.
        like: a tensor of the dtype and device to draw in.
        solve: gives `incoming @ S^-1`; None for the directions of M itself.

    Returns:
        shape (rank, rows), float64; the identity if it is all of them.
    """
    if rank >= rows:
        return torch.eye(rows, dtype=torch.float64, device=like.device)
    basis = torch.randn(rank, rows, dtype=like.dtype, generator=torch.Generator().manual_seed(0)).to(like.device)
    cheap = solve is None and isinstance(gradient, Formed)
    for left in reversed(range(CHEAP_PASSES if cheap else PASSES)):
        moved = gradient.moved(basis, solve)
        basis = torch.linalg.qr((moved if left else moved.double()).T).Q.T
    return basis
