"""How many directions a matrix uses: effective rank, stable rank, rank99. Two of them are called "stable rank" by
somebody.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.signals.finite import require_finite


def effective_rank(matrix: Tensor) -> float:
    """`exp(H(p))` with `p = sigma / sum(sigma)` and H the entropy in nats; 0 for a matrix of zeros.

    Roy, Vetterli, "The effective rank", EUSIPCO 2007. Between 1 and the rank.

    Args:
        matrix: of real numbers, two dimensions.
    """
    sigma = _spectrum(matrix)
    if not sigma.sum() > 0:
        return 0.0
    p = sigma / sigma.sum()
    return float(torch.special.entr(p).sum().exp())


def stable_rank(matrix: Tensor) -> float:
    """`||A||_F^2 / ||A||_2^2`, the textbook one; 0 for a matrix of zeros. Between 1 and the rank."""
    squares = _spectrum(matrix).square()
    return float(squares.sum() / squares.max()) if squares.sum() > 0 else 0.0


def rank99(matrix: Tensor, share: float = 0.99) -> int:
    """How many of the largest singular values it takes for 99 % of their sum; 0 for a matrix of zeros.

    What the repository of Continual Backprop (Dohare et al., arXiv 2306.13812) calls stable rank.
    """
    sigma = _spectrum(matrix)
    if not sigma.sum() > 0:
        return 0
    return min(int((sigma.cumsum(0) < share * sigma.sum()).sum()) + 1, len(sigma))


def _spectrum(matrix: Tensor) -> Tensor:
    """Singular values, descending, in float64. Raises SignalError: the matrix is not finite."""
    return torch.linalg.svdvals(require_finite(matrix.detach(), "the matrix whose rank is asked for").double())
