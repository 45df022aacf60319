"""Splitting: units are split in two where the loss curves down between the halves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.errors import ConfigError
from meristem.grow.parts.side import Side, normalized
from meristem.grow.parts.split_point import SplitPoint, SplittingMethod, random_directions, split_point


@dataclass(frozen=True)
class Splitting(SplittingMethod):
    """Unit i becomes two at `w_i + e v_i` and `w_i - e v_i` that share its fan-out equally.

    Liu, Wu, Wang, "Splitting steepest descent for growing neural architectures", NeurIPS 2019, arXiv 1910.02366,
    section 2: to first order nothing happens, and to second order

        L(split) - L = e^2 / 2 v_i^T S_i v_i,    S_i = E[dL/dh_i phi''(w_i x) x x^T],

    least for the eigenvector of the least eigenvalue of S_i. Units with the most negative ones are split. S is never
    formed: the products `S_i v_i` of all units at once are one second backward pass through the model with every unit
    in two copies, and Lanczos' method with all of them finds the eigenvectors. So S is exact for any smooth model, with
    weights that are shared, recurrent, normalized, or convolved. Biases are not split.

    Piecewise linear activation functions have no second derivative; they are given that of softplus at their kinks
    (beta 3 for ReLU, as in the authors' code), which makes S a heuristic. Where no curvature is seen at all, as behind
    other functions without one or where units are read linearly, the plan is empty and its note says so. What is no
    more than rounding in the dtype of the weights counts as none: below 16 units of rounding of the curvature that one
    copy alone has (derived here, not in the paper).

    Attributes:
        epsilon: how far each half is moved (default 0.01, as in the authors' code).
        iterations: of Lanczos' method (default 16; exact from the number of weights of one unit on).
        beta: sharpness of rounded kinks (default 3).

    Preserved: the function up to `epsilon ** 2`. Predicted gain: `-e^2 / 2 lambda_i`, a decrease of the loss at once.
    Fails: away from a stationary point gradient descent gains more than splitting; halves start close to one another.
    Where a closure computes in lower precision than that of the weights (autocast), rounding may pass for curvature.

    Raises:
        ConfigError: a setting is not positive; or no closure was given (when it proposes).
        SignalError: (when it proposes) the loss or its first or second derivatives are not finite.
    """

    epsilon: float = 0.01
    iterations: int = 16
    beta: float = 3.0

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and self.iterations >= 1 and self.beta > 0):
            raise ConfigError(f"expected epsilon > 0, iterations >= 1 and beta > 0, got {self!r}")

    def lowest(self, fan_in: Side) -> tuple[Tensor, Tensor]:
        with split_point(fan_in, self.beta) as point:
            start = random_directions(fan_in)
            lowest, vectors = lanczos(point, start, min(self.iterations, fan_in.width))
            return point.cleared(lowest, start), vectors


def lanczos(point: SplitPoint, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The least eigenvalue of every unit's S, shape (units,), with its unit vector, shape (units, width).

    Golub, Van Loan, "Matrix Computations", section 10.1, with full orthogonalization; all units at once. Where a
    subspace is exhausted early, the basis goes on with zeros, which add nothing but eigenvalues 0 with zero vectors.
    """
    basis, images = [start], [point.times(start)]
    scale = torch.linalg.vector_norm(images[0], dim=1, keepdim=True)
    for _ in range(iterations - 1):
        rest = images[-1]
        for _ in range(2):
            for vector in basis:
                rest = rest - (rest * vector).sum(1, keepdim=True) * vector
        size = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        scale = torch.maximum(scale, torch.linalg.vector_norm(images[-1], dim=1, keepdim=True))
        basis.append(torch.where(size > 1e-7 * scale, normalized(rest), 0.0))
        images.append(point.times(basis[-1]))
    q, s = torch.stack(basis, 1), torch.stack(images, 1)
    small = q @ s.transpose(1, 2)
    values, vectors = torch.linalg.eigh((small + small.transpose(1, 2)) / 2)
    return values[:, 0], normalized((vectors[:, :, :1].transpose(1, 2) @ q)[:, 0])
