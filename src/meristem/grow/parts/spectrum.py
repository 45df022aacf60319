"""Choosing units that add most to the spectrum of a Gram matrix, without ever decomposing a candidate's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEP = 0.35
"""Of the quadrature; its error is about `exp(-pi ** 2 / _STEP)` = 6e-13."""

_REACH = 28.0
"""From `exp(-_REACH)` to `exp(_REACH)` times the largest singular value."""


def increases(eigenvalues: Tensor, squares: Tensor, own: Tensor) -> Tensor:
    """By how much the sum of the singular values of H grows with one more row, for each of several candidate rows.

    From `sqrt(x) = 1/pi int_0^inf log(1 + x / s^2) ds` and the determinant of a bordered matrix,

        increase = 1/pi int_0^inf log(1 + g(s) / s^2) ds,    g(s) = a - sum_i b_i^2 / (s^2 + d_i)

    with d the eigenvalues of `H H^T`, b the candidate's products with the rows of H in their eigenbasis and a its
    square. The trapezoidal rule in log s converges geometrically.

    Args:
        eigenvalues: d, shape (rows,), not negative.
        squares: b^2, shape (candidates, rows).
        own: a, shape (candidates,).

    Returns:
        shape (candidates,), not negative.
    """
    scale = float(torch.cat([eigenvalues, own]).max().sqrt())
    if not scale > 0:
        return torch.zeros_like(own)
    t = torch.arange(-_REACH, _REACH + _STEP, _STEP, dtype=own.dtype, device=own.device)
    s = scale * t.exp()
    schur = own[:, None] - squares @ (1 / (s**2 + eigenvalues[:, None]))
    return (torch.log1p(schur.clamp(min=0) / s**2) * s).sum(1) * (_STEP / math.pi)


def raises_rank(eigenvalues: Tensor, squares: Tensor, own: Tensor, cutoff: float) -> Tensor:
    """Whether one more row gives H one more singular value above a cutoff, for each of several candidate rows.

    By Sylvester's law of inertia: eigenvalues above `c = cutoff^2` become one more exactly if `a - c - sum_i b_i^2 /
    (d_i - c)` is positive. Arguments as for `increases`.

    Returns:
        bool, shape (candidates,).
    """
    bar = cutoff**2
    return own - bar - (squares / (eigenvalues - bar)).sum(1) > 0


def unit_rows(gram: Tensor) -> Tensor:
    """The Gram matrix of rows that are divided by their root mean squares.

    Rows whose root mean square is rounding beside the largest become zero.

    Args:
        gram: mean of `h h^T` over samples, shape (rows, rows).
    """
    sizes = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(sizes > 1e-6 * sizes.max(), 1 / sizes, 0.0)
    return gram * inverse * inverse[:, None]


def select(gram: Tensor, incumbents: int, count: int, cutoff: float = 0.01) -> list[int]:
    """Candidates that extend the spectrum of the incumbents most, chosen one after the other.

    At each step: of those that raise the numerical rank (all, if none does) the one that adds most to the sum of the
    singular values of `H / sqrt(n)`. It ends when all remaining candidates add nothing.

    Args:
        gram: mean of `h h^T` over samples, shape (incumbents + candidates, incumbents + candidates).
        incumbents: how many come first.
        count: how many candidates at most.
        cutoff: singular values up to this do not count towards the rank.

    Returns:
        at most `count` numbers of candidates, in the order in which they were chosen.
    """
    inside, left = list(range(incumbents)), list(range(incumbents, len(gram)))
    while left and len(inside) < incumbents + count:
        eigenvalues, vectors = torch.linalg.eigh(gram[inside][:, inside])
        squares = (gram[left][:, inside] @ vectors).square()
        own = gram.diagonal()[left]
        eigenvalues = eigenvalues.clamp(min=0)
        added = increases(eigenvalues, squares, own)
        if not bool(added.max() > 1e-6 * gram.diagonal().max().sqrt()):
            break
        rank = raises_rank(eigenvalues, squares, own, cutoff)
        best = int((added + rank.to(added) * (added.max() + 1)).argmax())
        inside.append(left.pop(best))
    return [unit - incumbents for unit in inside[incumbents:]]
