"""A parallel branch with units of its own: a copy of a module beside it, joined by a concatenation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from meristem.axes.expression import Expression, Leaf, Product, leaves, size_of
from meristem.axes.map import Axis, AxisMap, TensorLayout
from meristem.axes.module_path import within
from meristem.depth.candidates import foreign
from meristem.depth.change import Change
from meristem.depth.places import Places
from meristem.depth.rehearsal import Step, rehearse, skeleton
from meristem.edit.compute import Change as Gathering
from meristem.edit.compute import Computation
from meristem.edit.gather import MAX_UNITS, Gather, whole_number
from meristem.edit.newborns import ZeroFanOut
from meristem.edit.plant import Planting
from meristem.edit.tree import Built, Copied, Old, Opening, Setting, TreeRecord, Widths
from meristem.errors import EditError


@dataclass(frozen=True)
class ConcatBranch(Change):
    """Put a copy of a module beside it that returns units of its own: both are given the same, and what they return is
    concatenated.

    Everything that reads the module's units reads those of the branch behind them, by columns that are zero at first.
    The module stays as it is; it and its copy become the children `0` and `1` of a `Concat`. What the copy computes its
    units with starts as for newborn units (`ZeroFanOut`), the rest of it is copied. The branch-level growth of Frels'
    framework (2023) with a concatenation as merge node; that the branch is a copy, and its start, are derived.

    Preserved: the function, to rounding, in train mode, too, unless the units are normalized together with others, or
    otherwise coupled, before anything reads them; then `inexact` says by what (also where only the module itself and
    the copy itself normalize their own units, which would be exact).

    Attributes:
        places: the places of the model as it is now.
        module: the path of the module.
        units: how many units the branch has; 2 or more.

    Raises:
        EditError: the module is not called, does not return a tensor, has no units that it alone produces, or several
            kinds of them.
    """

    places: Places = field(repr=False)
    module: str
    units: int

    def __post_init__(self) -> None:
        if not 2 <= whole_number(self.units, "the number of units of a branch") <= MAX_UNITS:
            raise EditError(
                f"ConcatBranch: expected 2 or more units (a single one of a concatenation cannot be told from a length "
                f"that broadcasts), at most {MAX_UNITS}; got {self.units!r}"
            )
        self._own()

    def widths(self, axes: AxisMap) -> Widths:
        """Room beside the module's units."""
        axis, _ = self._own()
        return Widths(opened=(Opening(axis=axis.name, module=self.module, units=self.units),))

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The concatenation. Raises `EditError` if the model cannot do with one in the module's place."""
        axis, dim = self._own()
        sizes = {**dict(enumerate(axes.sizes)), axis.index: self.units}
        shapes = {name: [size_of(d, sizes) for d in layout.dims] for name, layout in self._tensors(axes, axis)}
        copy = Copied(copied=self.module, shapes=shapes)
        children = {"0": Old(old=self.module), "1": copy}
        settings = [
            Setting(module=f"{self.module}.1{b.module[len(self.module) :]}", path=b.path, value=size_of(b.value, sizes))
            for b in axes.attributes
            if within(b.module, self.module) and axis.index in leaves(b.value)
        ]
        node = Built(build="Concat", options={"dim": dim}, children=children)
        record = TreeRecord(slots={self.module: node}, settings=settings, widths=self.widths(axes))
        found = rehearse(axes.model, axes.examples, record)
        if isinstance(found, str):
            raise EditError(f"{self.module} can have no branch beside it: {found}")
        before = skeleton(self.places.flow, {self.module})
        after = skeleton(found.flows[0], {self.module, f"{self.module}.0", f"{self.module}.1"})
        if [_called(step) for step in before] != [_called(step) for step in after] or before[-1] != after[-1]:
            raise EditError(f"{self.module} can have no branch beside it: the rest of the model would run differently")
        return record

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """The branch's units start as newborns."""
        axis, _ = self._own()
        node = record.slots[self.module]
        assert isinstance(node, Built), "`tree` builds the concatenation"
        copied = planting.made[id(node.children["1"])]
        own = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
        gather = Gather((-1,) * self.units, (True,) * self.units)
        seed = int(torch.randint(2**31, (), device="cpu"))
        computation = Computation(axes, [Gathering(axes.axes[axis.index], gather, ZeroFanOut())], seed)
        for name, layout in self._tensors(axes, axis):
            value, _ = computation.tensor(layout, planting.before[layout.name].detach())
            own[name].copy_(value)

    def inexact(self) -> tuple[str, ...]:
        """The couplings of the module's units."""
        axis, _ = self._own()
        return tuple(ZeroFanOut().inexact(axis, Gather.grow(axis.size, self.units)))

    def _own(self) -> tuple[Axis, int]:
        """The axis of the units that the module alone produces, and the dimension of them in what it returns."""
        flow, lengths = self.places.flow, self.places.lengths
        calls = flow.of.get(self.module, ())
        if not self.module or not calls or not all(call.returns for call in calls):
            raise EditError(f"{self.module} is not called on the example, or returns something else than a tensor")
        dims = lengths.of(flow.version(calls[0].outputs[0], calls[0].last))
        found: dict[int, tuple[Axis, int]] = {}
        reasons: list[str] = []
        for dim, expression in enumerate(dims):
            axis = _outermost(self.places.axes, expression)
            if axis is None:
                continue
            reason = self._foreign(axis)
            if reason is None:
                found[axis.index] = axis, -1 if dim == len(dims) - 1 else dim
            else:
                reasons.append(reason)
        if len(found) != 1:
            why = "; ".join(dict.fromkeys(reasons)) or f"it returns {len(found)} kinds of units of its own, not one"
            raise EditError(f"{self.module} can have no branch beside it: {why}")
        (own,) = found.values()
        return own

    def _foreign(self, axis: Axis) -> str | None:
        """Why the units are not the module's alone, or None."""
        for place in self.places.axes.places[axis.index]:
            names = place.layout.names
            if len(names) > 1 and any(within(name, self.module) for name in names):
                return f"{names[0]} is held under several names"
        return foreign(self.places.axes, axis, (self.module,))

    def _tensors(self, axes: AxisMap, axis: Axis) -> Iterator[tuple[str, TensorLayout]]:
        """The tensors of the module that lie over an axis, by their names in it."""
        for layout in axes.layouts.values():
            if within(layout.name, self.module) and any(axis.index in leaves(dim) for dim in layout.dims):
                yield layout.name[len(self.module) + 1 :], layout


def _outermost(axes: AxisMap, expression: Expression | None) -> Axis | None:
    """The axis of which a length is so many blocks: the length itself, or the first factor."""
    first = expression.factors[0] if isinstance(expression, Product) and expression.factors else expression
    return axes.axes[first.axis] if isinstance(first, Leaf) else None


def _called(step: Step) -> object:
    """The operator of a step."""
    return step[0]
