"""SparseGPT: what weights are removed, the others of their row make up for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from meristem.errors import ConfigError
from meristem.mask.best import top
from meristem.mask.distribution import check_density
from meristem.mask.nm import check_groups, check_inputs
from meristem.mask.one_shot import OneShot, rows, tapped, unrows, untapped
from meristem.mask.wanda import grouped
from meristem.signals.contraction import Call
from meristem.signals.finite import require_finite
from meristem.signals.moments import second_moment


@dataclass(frozen=True, kw_only=True)
class SparseGPT(OneShot):
    """One-shot pruning with weight updates, column by column, by the second moment of what a layer reads.

    Frantar, Alistarh 2023, arXiv 2301.00774, algorithm 1. `H = X X^T + damping * mean(diag) * I`; U is the upper
    Cholesky factor of its inverse. Columns are gone through from left to right. In each block of `block` columns those
    weights go whose `w ** 2 / U_jj ** 2` is smallest, the same share of every block; removing w_ij adds
    `-w_ij / U_jj * U_j,:` to the columns of row i that follow. Convolutions are the same with patches for inputs
    (derived; groups apart).

    Preserved: at a density of 1 everything. On the calibration data the error of a layer's output is less than without
    the updates; and less than that of magnitude pruning, if not too many correlated columns are chosen among at once.

    Attributes:
        density: the share of weights that stays (default 0.5).
        m: None (default), or the length of groups of neighbouring inputs (at the same position of a kernel) within
            which the share stays, a whole number of each: 4 at a density of 0.5 is 2:4, the pattern of `NM(m=4)`.
        block: columns among which weights are chosen at once (default 128).
        damping: default 0.01.

    Fails: where a block spans most of a layer whose inputs are strongly correlated, it chooses no better than by
    magnitude (derived): make `block` smaller there, or give m. With fewer samples than inputs H is nearly singular and
    the update fits noise; raise `damping`. Needs (fan-in)^2 numbers for each layer and (fan-in)^3 operations.
    """

    density: float = 0.5
    m: int | None = None
    block: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.m is not None:
            check_groups(self.density, self.m)
        if self.block < 1 or not self.damping > 0 or (self.m is not None and self.block % self.m):
            raise ConfigError(f"{self!r}: block must be a multiple of m and at least 1, damping above 0")

    def measure(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        return second_moment(call.input.detach(), call.contraction)[0]

    def pruned(self, name: str, weight: Tensor, total: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        moments = total[..., :-1, :-1]
        moments = moments if moments.dim() == 3 else moments[None]
        require_finite(moments.diagonal(dim1=1, dim2=2), f"the second moment of what {name} reads")
        taps = 1 if self.m is None else prod(call.contraction.kernel)  # neighbours are at the same position
        if self.m is not None:
            check_inputs(name, call.contraction.ins // call.contraction.groups, self.m)
        matrices = zip(rows(weight.to(total), call), moments, strict=True)
        found = [self._matrix(name, tapped(w, taps), tapped(tapped(h, taps).T, taps)) for w, h in matrices]
        pairs = [(untapped(mask, taps), untapped(values, taps)) for mask, values in found]
        mask, values = (unrows(torch.stack(parts), call, weight.shape) for parts in zip(*pairs, strict=True))
        return mask, torch.where(mask, values.to(weight), weight.new_zeros(()))

    def _matrix(self, name: str, weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """The mask and the values of one matrix (outputs, inputs) with the second moment of its inputs."""
        weight, factor = weight.clone(), self._factor(moment)
        mask = torch.ones_like(weight, dtype=torch.bool)
        for start in range(0, weight.shape[1], self.block):
            here = slice(start, min(start + self.block, weight.shape[1]))
            part, upper = weight[:, here], factor[here, here]
            errors = torch.zeros_like(part)
            diagonal = upper.diagonal()
            if self.m is None:
                mask[:, here] = top((part / diagonal).square(), round(self.density * part.numel()))
            for j in range(part.shape[1]):
                if self.m is not None and j % self.m == 0:
                    group = slice(j, j + self.m)
                    worth = (part[:, group] / diagonal[group]).square()
                    mask[:, start + j : start + j + self.m] = grouped(name, worth, self.density, self.m)
                gone = part[:, j].masked_fill(mask[:, start + j], 0)
                errors[:, j] = gone / diagonal[j]
                part[:, j:] -= errors[:, j, None] * upper[j, j:]
            weight[:, here.stop :] -= errors @ factor[here, here.stop :]
        return mask, weight

    def _factor(self, moment: Tensor) -> Tensor:
        """The upper Cholesky factor of the inverse of the damped second moment."""
        scale = moment.diagonal().mean()
        added = self.damping * scale if bool(scale > 0) else torch.ones_like(scale)
        damped = moment + added * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        return torch.linalg.cholesky(inverse, upper=True)
