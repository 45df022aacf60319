"""Solving with second moments, which may be singular."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.signals.finite import require_finite

CLEAR = 1e-2
"""A factor is computed in less than float64 where its smallest pivot is above this share of the mean eigenvalue."""


def factor(s: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a second moment with a ridge; ten times as much where rounding makes it indefinite.

    It is of the dtype of s if no pivot is near the rounding with which s was summed up, else float64.

    Args:
        s: symmetric, shape (entries, entries).
        ridge: added to the diagonal, as a share of the mean eigenvalue.

    Raises:
        SignalError: s is not finite.
    """
    require_finite(s.diagonal(), "the second moment that is to be inverted")
    mean = s.diagonal().mean(dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
    if s.dtype != torch.float64:
        found, failed = _factored(s.clone(), ridge * mean)
        if not failed and bool(found.diagonal().square().min() > CLEAR * mean):
            return found
    while True:
        found, failed = _factored(s.to(torch.float64, copy=True), ridge * mean)
        if not failed:
            return found
        ridge = 10 * ridge


def _factored(s: Tensor, added: Tensor) -> tuple[Tensor, bool]:
    s.diagonal().add_(added)
    s = s.mT  # the same, in the order of memory in which it is factored in place
    failed = torch.empty((), dtype=torch.int32, device=s.device)
    torch.linalg.cholesky_ex(s, out=(s, failed))
    return s, bool(failed)
