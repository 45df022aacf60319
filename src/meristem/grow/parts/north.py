"""What NORTH*'s initialisations share: fan-in of the incumbents' size, zero fan-out, pre-activations as vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis
from meristem.axes.path import BatchNorm
from meristem.edit import Explicit, Gather
from meristem.errors import SignalError
from meristem.grow.method import Growth, Method
from meristem.signals import Block, View, entries
from meristem.signals.finite import require_finite


def fan_ins(view: View, axis: Axis, block: Block) -> Tensor:
    """The incumbents' fan-in, composed as newborns' is: float64, shape (axis.size, block.width)."""
    dim = view.axes.layouts[block.weight].dims[block.dim]
    weight = view.tensors[block.weight]
    units = (units_along(dim, axis.index, view.axes.sizes) >= 0).to(weight.device)
    rows = weight.movedim(block.dim, 0)[units].flatten(1)
    if block.bias is not None:
        rows = torch.cat([rows, view.tensors[block.bias][units, None]], 1)
    return rows.double()


def finite(axis: Axis, moment: Tensor, block: Block, old: Tensor) -> None:
    """Raise `SignalError` if what newborns are computed from is not finite.

    Args:
        axis: where they are born.
        moment: the second moment of what they would read.
        block: how their fan-in is composed.
        old: the incumbents' fan-in.
    """
    bias = f" and {block.bias}" if block.bias is not None else ""
    require_finite(old, f"{block.weight}{bias}, which produce {axis.name!r}")
    require_finite(moment, f"the second moment of what {block.weight} reads")


@contextmanager
def decomposing(what: str) -> Iterator[None]:
    """Raise `SignalError` where a decomposition fails.

    Args:
        what: what is decomposed, and of which weight or axis, for the message.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise SignalError(
            f"{what} could not be decomposed ({error}); nothing was edited. Numbers are too large or too far apart: "
            "training may have diverged. Go on from an earlier checkpoint, with a lower learning rate or smaller "
            "inputs, or leave the axis out with `axes=`"
        ) from error


@dataclass(frozen=True, eq=False)
class Whitened:
    """Weights as the vectors that their pre-activations are.

    With `S = V diag(e) V^T` the second moment of what is read, weights w become `w V e^1/2`, whose products are the
    mean products of the pre-activations.

    Attributes:
        vectors: V without the directions that do not vary, shape (entries, directions).
        roots: `e^1/2`, shape (directions,), positive.
        taken: of norm 1, or zero: the pre-activations of incumbents, and in the last row as much of the constant 1 as
            can be read; shape (incumbents + 1, directions).
    """

    vectors: Tensor
    roots: Tensor
    taken: Tensor

    @classmethod
    def of(cls, axis: Axis, moment: Tensor, old: Tensor, tolerance: float) -> Whitened:
        """From the second moment.

        Args:
            axis: where newborns are born.
            moment: mean of `u u^T` with u = (what is read, 1), shape (entries + 1, entries + 1).
            old: weights of incumbents, shape (incumbents, entries), or (incumbents, entries + 1) with biases.
            tolerance: directions whose eigenvalue is below this share of the largest do not count.

        Raises:
            SignalError: the moment cannot be decomposed.
        """
        used = old.shape[1]
        with decomposing(f"the second moment of what produces {axis.name!r}"):
            eigenvalues, vectors = torch.linalg.eigh(moment[:used, :used])
        kept = (eigenvalues > tolerance * eigenvalues[-1:]) & (eigenvalues > 0)
        roots, vectors = eigenvalues[kept].sqrt(), vectors[:, kept]
        constant = (moment[-1:, :used] @ vectors) / roots
        return cls(vectors, roots, unit(torch.cat([old @ vectors * roots, constant])))

    def into(self, weights: Tensor) -> Tensor:
        """What pre-activations weights make: of norm 1, or zero."""
        return unit(weights @ self.vectors * self.roots)

    def back(self, responses: Tensor) -> Tensor:
        """The smallest weights that make such pre-activations."""
        return responses / self.roots @ self.vectors.T


def unit(rows: Tensor) -> Tensor:
    """Every row divided by its norm; zero stays zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def mean_norm(fan_in: Tensor) -> float:
    """The mean norm of incumbents' fan-in; that of Kaiming's weights if they are all zero or not finite."""
    norm = float(fan_in.norm(dim=1).mean())
    return norm if norm > 0 and math.isfinite(norm) else math.sqrt(2)


def plan(
    method: Method,
    view: View,
    axis: Axis,
    fan_in: tuple[Block, ...],
    incoming: Tensor,
    moments: tuple[Tensor, Tensor],
    note: str | None,
) -> Growth:
    """Newborns with this fan-in and zero fan-out.

    Args:
        method: who made them.
        view: the model.
        axis: where they are born.
        fan_in: how vectors are composed.
        incoming: shape (newborns, fan-in); none is allowed.
        moments: mean and variance of their pre-activations, for the running statistics of a batch normalization that
            comes first.
        note: why there are fewer than were asked for.
    """
    if not len(incoming):
        return Growth(axis, Gather.keep(axis.size, range(axis.size)), Explicit(repr(method), {}), note=note)
    values = entries(fan_in, incoming)
    for path in view.axes.paths[axis.index]:
        first = path.steps[0] if path.steps else None
        if isinstance(first, BatchNorm):
            running = zip((first.mean, first.variance), moments, strict=True)
            values |= {(name, 0): moment[:, None] for name, moment in running if name is not None}
    return Growth(axis, Gather.grow(axis.size, len(incoming)), Explicit(repr(method), values), note=note)
