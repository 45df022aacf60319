"""Solving with second moments, which may be singular."""

from __future__ import annotations

import torch
from torch import Tensor


def factor(s: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a second moment with a ridge; ten times as much where rounding makes it indefinite.

    Args:
        s: symmetric, shape (entries, entries), float64.
        ridge: added to the diagonal, as a share of the mean eigenvalue.
    """
    mean = s.diagonal().mean().clamp(min=torch.finfo(s.dtype).tiny)
    damped, added = s.clone(), 0.0
    while True:
        damped.diagonal().add_((ridge - added) * mean)
        found, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return found
        added, ridge = ridge, 10 * ridge
