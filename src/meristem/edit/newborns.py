"""What newborn units start from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from meristem.axes.map import Axis, Role, TensorLayout
from meristem.edit.gather import Gather
from meristem.edit.indices import Indices, Spots
from meristem.edit.noise import draw_uniform


@dataclass(frozen=True, eq=False)
class Slice:
    """One dimension of one tensor in which units of one axis are born.

    Where newborns of two axes meet in one tensor, the dimension that reads decides: nothing reads a newborn at birth
    unless its method says so.

    Attributes:
        layout: the tensor's layout.
        dim: the dimension.
        axis: the axis, as it was before the edit.
        roles: what the dimension does with the axis.
        old: the whole tensor before the edit.
        shape: the shape of the entries that start from nothing: that of the new tensor, except along `dim`, where it is
            the number of `positions`.
        spots: the new indices along `dim` that belong to units without a source.
        generator: the source of randomness, on the CPU whatever the tensor's device.
        place: where the entries go in the new tensor, if that is in one piece; its content is arbitrary. They may be
            made right there: if `Newborns.values` returns it, nothing is copied.
    """

    layout: TensorLayout
    dim: int
    axis: Axis
    roles: frozenset[Role]
    old: Tensor
    shape: tuple[int, ...]
    spots: Spots
    generator: torch.Generator
    place: Tensor | None = field(repr=False)
    _indices: Indices = field(repr=False)

    @property
    def positions(self) -> Tensor:
        """The new indices along `dim` that belong to units without a source, rising; int64."""
        return self.spots.index

    @cached_property
    def sources(self) -> Tensor:
        """For each new index along `dim` the index that it copies, -1 for none; int64.

        Old indices are counted as if no other axis of this dimension changed its size in this edit.
        """
        return self._indices.sources(self.layout.dims[self.dim], self.axis.index)

    @property
    def sizes(self) -> Mapping[int, int]:
        """The size of every axis after the edit, by number."""
        return self._indices.after

    @cached_property
    def alone(self) -> tuple[Mapping[int, int], Tensor]:
        """The sizes of all axes if only this one changed, and for each new index along `dim` the one that it would then
        be; -1 where another axis of the dimension has no source."""
        return self._indices.alone(self.layout.dims[self.dim], self.axis.index)

    def along(self, dim: int) -> Tensor:
        """For each new index along another dimension the old one that it copies, -1 for none; int64."""
        return self._indices.along(self.layout.dims[dim], self.old.device).index

    @cached_property
    def newborn(self) -> Tensor:
        """Which new indices along `dim` belong to a newborn, with or without a source; bool."""
        born = self._indices.born(self.layout.dims[self.dim], self.axis.index, sourceless=False)
        return torch.zeros(len(self.sources), dtype=torch.bool).index_fill(0, born, True)


@runtime_checkable
class Newborns(Protocol):
    """What newborn units start from. Frozen dataclasses implement it, one for each growth method.

    Subclasses inherit the defaults: copies are exact copies, and the function is preserved as far as fan-out that is
    not zero, but adds nothing, preserves it.
    """

    def values(self, s: Slice) -> Tensor:
        """The entries of the new indices without a source, in their order; shape `s.shape`."""
        ...

    def number(self, layout: TensorLayout, roles: frozenset[Role]) -> float | None:
        """The one number that `values` gives along a dimension with these roles, if that is known without looking; None
        (default) if not. All axes of a dimension are then filled at once."""
        return None

    def weight_factor(self, s: Slice) -> Tensor | None:
        """By what entries with a source are multiplied, incumbents too: one factor per new index. None: all ones."""
        return None

    def shift(self, layout: TensorLayout) -> Tensor | None:
        """What is added to the gathered entries of a tensor, incumbents too. None: nothing.

        In the shape that the tensor would have after an edit of this axis alone.

        Entries without a source get `values` instead. Copies of the model that follow are not shifted.
        """
        return None

    def gradient_factor(self, s: Slice) -> Tensor | None:
        """By what the gradient of each gathered entry changes: one factor per new index. None: all ones.

        The first moments that an optimizer keeps are multiplied by it, second moments by its square.
        """
        return None

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        """Why inserting the newborns changes the function; nothing if it is preserved."""
        return fan_out_reasons(axis)


def fan_out_reasons(axis: Axis) -> tuple[str, ...]:
    """Why inserting units changes the function although their contributions add up to nothing: the axis' couplings, and
    weights that read it and are normalized before use, in which everything but zeros changes what incumbents have."""
    couplings = sorted(coupling.value for coupling in axis.couplings)
    if Role.READS not in axis.nonlinear:
        return tuple(couplings)
    return (*couplings, "weights that read it are not linear in its slices (a norm over it, say)")


@dataclass(frozen=True)
class ZeroFanOut(Newborns):
    """Newborns start with random fan-in weights and zero fan-out weights, so that nothing reads them at first.

    The baseline of random growth (Evci et al., GradMax, ICLR 2022, arXiv 2201.05125, section 4). Entries that produce
    the unit are uniform with the root mean square of the incumbents, or with Kaiming's standard deviation
    `sqrt(2 / fan-in)` (He et al. 2015, arXiv 1502.01852, equation 10) if those are zero. Entries that read it are zero,
    also where the same dimension both produces and reads it (tied weights). Carried entries get the value that does
    nothing (1 for scales and variances, 0 for biases and means); where none exists (depthwise kernels) they are random.
    Tensors that are transformed before they meet the units (a logarithm, a divisor) get copies of incumbents' entries.
    Where two activations are contracted over the axis, as queries and keys are over the size of a head, one of them
    stands for fan-out: what produces that one of newborns is zero, too (`Axis.counterpart`).

    Preserved: the function, to rounding, on axes without couplings but products; the gradients and so the next update
    of all incumbents for optimizers that work entry by entry.
    """

    def number(self, layout: TensorLayout, roles: frozenset[Role]) -> float | None:
        """Zero for what reads, the neutral value for what is carried, unless incumbents are copied."""
        if copied(layout, roles):
            return None
        if Role.READS in roles:
            return 0.0
        return None if Role.PRODUCES in roles else layout.neutral

    def values(self, s: Slice) -> Tensor:
        """Zeros, neutral values, incumbents' or random numbers, by the dimension's role."""
        if copied(s.layout, s.roles):
            return incumbents(s)
        number = self.number(s.layout, s.roles)
        if number is None and s.old.dtype.is_floating_point:
            return unanswered(s, uniform(s, incumbent_scale(s)))
        return s.old.new_full((), number or 0).expand(s.shape)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        """The axis' couplings, but for products to which newborns add nothing."""
        return sorted(coupling.value for coupling in axis.unsettled)


def copied(layout: TensorLayout, roles: frozenset[Role]) -> bool:
    """Whether newborns get copies of entries of incumbents along a dimension with these roles."""
    return bool(layout.copied) and roles <= layout.copied


def unanswered(s: Slice, entries: Tensor) -> Tensor:
    """In place: entries of shape `s.shape` that are zero where they belong to the counterpart of the axis."""
    part = s.axis.counterpart.part(s.layout.name, s.dim) if s.axis.counterpart is not None else None
    if part is None:
        return entries
    zero = part.mask(s.layout.dims[s.dim], s.sizes)[s.positions].nonzero().flatten()
    return entries.index_fill_(s.dim, zero.to(entries.device), 0)


def incumbents(s: Slice) -> Tensor:
    """The old entries one after another, from the first again after the last; shape `s.shape`.

    Tensors that are laid out alike get entries of the same units, so that what is finite for incumbents, a logarithm of
    a difference, say, is so for newborns.
    """
    found = s.old
    for dim, length in enumerate(s.shape):
        index = torch.arange(length, device=s.old.device) % s.old.shape[dim]
        if dim != s.dim:
            known = s.along(dim).to(s.old.device)
            index = torch.where(known < 0, index, known)
        found = found.index_select(dim, index)
    return found


def incumbent_scale(s: Slice) -> float:
    """The root mean square of the old entries, or Kaiming's standard deviation if they are all zero or not finite."""
    dtype = torch.promote_types(s.old.dtype, torch.float32)
    scale = float(torch.linalg.vector_norm(s.old, dtype=dtype)) / math.sqrt(max(s.old.numel(), 1))
    if scale > 0 and math.isfinite(scale):
        return scale
    return math.sqrt(2 * s.old.shape[s.dim] / max(s.old.numel(), 1))


def uniform(s: Slice, deviation: float) -> Tensor:
    """Uniform random entries of shape `s.shape` with this standard deviation, the same on every device."""
    room = s.old.new_empty(s.shape) if s.place is None else s.place
    return draw_uniform(room, deviation * math.sqrt(3), s.generator)
