"""AKI: copies that read what units of the next block read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.expression import gather_index, leaves, units_along
from meristem.axes.map import Axis, AxisMap, Role, TensorLayout
from meristem.edit import Gather, Newborns, Slice
from meristem.errors import EditError
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import Net2Wider
from meristem.grow.parts.next_block import following
from meristem.grow.parts.shares import shares
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class AKI(Method):
    """Newborns are copies, but their fan-in and what they carry come from the same unit of the next block.

    Advanced knowledge initialization, Chen et al., "bert2BERT", ACL 2022, arXiv 2110.07143, section 3.3.2: with U^l a
    weight matrix of block l after its columns have been expanded as by Net2Wider (their FPI), the rows of newborns are
    rows of the next block's,

        W'^l[j] = U^l[j] for incumbents,    W'^l[j] = U^{l+1}[g(j)] for newborns,

    because neighbouring blocks are alike, but not equal: copies of one unit part at once. What has no next block (the
    last one, embeddings, heads, final normalizations) is copied as the base copies it. A next block is the next child
    of the same container with parameters of the same names and shapes, that of the outermost container if several
    have one (derived; the paper knows only the layers of transformers, and does not say what biases and scales of
    normalizations do: here they go with their unit). FPI itself is the base: `Net2Wider` draws parents at random, as in
    the paper; `HyperCloning` copies all equally often, which alone is exact behind LayerNorm.

    Preserved: nothing, where a next block is.
    Fails: where neighbouring blocks are not alike, such as early in training.
    Optimizer state: that of the base, as if newborns were copies (derived).

    Attributes:
        base: which units are copied, and how their fan-out is divided. Default: `Net2Wider()`.

    Raises:
        EditError: (when it proposes) the base's newborns are not copies.
    """

    base: Method = field(default_factory=Net2Wider)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return self.base.undefined(axes, axis)

    def needs(self, axes: AxisMap, axis: Axis, count: int) -> tuple[Statistic, ...]:
        return self.base.needs(axes, axis, count)

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        plan = self.base.propose(view, axis, count)
        if min(plan.gather.sources) < 0:
            raise EditError(f"AKI needs newborns that are copies; {self.base!r} gives some of {axis.name} no source")
        own = {place.layout.name for place in view.axes.places[axis.index] if _fed(place.layout, axis)}
        learned = {name: found for name in own if (found := following(view.axes.model, name)) is not None}
        others = {name: view.tensors[found] for name, found in learned.items()}
        before = {name: view.tensors[name] for name in others}
        start = _Advanced(repr(self), plan.start, axis, plan.gather, view.axes.sizes, before, others)
        return Growth(axis, plan.gather, start, note=plan.note)


@dataclass(frozen=True, eq=False, repr=False)
class _Advanced(Newborns):
    """Copies, moved to where the next block's units are.

    Attributes:
        name: what made them.
        copies: how copies share what their source did.
        axis, gather: the plan for which they do.
        sizes: of all axes before the edit.
        before, after: by the name of a tensor that has a counterpart in the next block: itself, and that.
    """

    name: str
    copies: Newborns
    axis: Axis
    gather: Gather
    sizes: tuple[int, ...]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]

    def values(self, s: Slice) -> Tensor:
        return self.copies.values(s)

    def weight_factor(self, s: Slice) -> Tensor | None:
        return self.copies.weight_factor(s)

    def gradient_factor(self, s: Slice) -> Tensor | None:
        return self.copies.gradient_factor(s)

    def shift(self, layout: TensorLayout) -> Tensor | None:
        found = self.copies.shift(layout)
        if layout.name not in self.after:
            return found
        change = self.after[layout.name].double() - self.before[layout.name].double()
        fed = torch.zeros((), dtype=torch.bool)
        for dim, expression in enumerate(layout.dims):
            if self.axis.index in leaves(expression):
                index = gather_index(expression, {self.axis.index: self.gather.index}, self.sizes)
                change = change.index_select(dim, index.to(change.device))
                along = [-1 if d == dim else 1 for d in range(change.dim())]
                if Role.READS in layout.roles[dim].get(self.axis.index, frozenset()):
                    change = change * shares(index).to(change).reshape(along)
                else:
                    fed = fed | self._newborn(layout, dim).reshape(along)
        change = change * fed.to(change)
        return change if found is None else change + found

    def _newborn(self, layout: TensorLayout, dim: int) -> Tensor:
        sizes = [len(self.gather) if number == self.axis.index else size for number, size in enumerate(self.sizes)]
        units = units_along(layout.dims[dim], self.axis.index, sizes)
        return self.gather.newborn_mask[units.clamp(min=0)] & (units >= 0)

    def inexact(self, axis: Axis, gather: Gather) -> Iterable[str]:
        reasons = tuple(self.copies.inexact(axis, gather))
        return (*reasons, "newborns read what the next block's units read") if self.after else reasons

    def __repr__(self) -> str:
        return self.name


def _fed(layout: TensorLayout, axis: Axis) -> bool:
    """Whether a parameter produces or carries units of an axis without reading any."""
    roles = [found for dim in layout.roles if (found := dim.get(axis.index))]
    return not layout.buffer and any(Role.READS not in found for found in roles)
