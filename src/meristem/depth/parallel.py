"""Parallel branches: a copy of a module beside it, joined by a sum or by a concatenation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from meristem.axes.map import Axis, AxisMap
from meristem.depth.addition import FEWEST_UNITS, Addition, appended, branch_in, summed, summed_row, tensors_over
from meristem.depth.change import Change
from meristem.depth.copies import set_zero
from meristem.depth.places import Places
from meristem.depth.rows import calls_of
from meristem.depth.silence import Obstacle, silenced_by
from meristem.edit.compute import Change as Gathering
from meristem.edit.compute import Computation
from meristem.edit.gather import MAX_UNITS, Gather, whole_number
from meristem.edit.newborns import ZeroFanOut
from meristem.edit.plant import Planting
from meristem.edit.tree import Opening, TreeRecord, Widths
from meristem.errors import EditError


@dataclass(frozen=True)
class AddBranch(Change):
    """Put a copy of a module beside it: both are given the same, and what they return is added.

    The last layer or normalization of the copy is zero at first, the rest is copied; the module and its copy become the
    children `0` and `1` of a `Beside`. Beside a row, neighbouring children of a container, copies of all of them come;
    old ones and copies are held together, in a `Stretch` each. The branch-level growth of Frels' framework (2023) with
    a sum inserted as merge node; that the branch is a copy is derived.

    Preserved: the function, bit for bit but for rounding of y + 0, in train mode, too.

    Attributes:
        places: the places of the model as it is now.
        module: the path of the module; or of the first to the name of the last of a row: "stage.1..2".

    Raises:
        EditError: there is no such place, or it is frozen: the module is not called, does not return a tensor, no zeros
            silence it, it multiplies no matrices and convolves nothing (a normalization, an embedding), or the model
            cannot do with a sum in its place.
    """

    places: Places = field(repr=False)
    module: str

    def __post_init__(self) -> None:
        self.places.addition("add", self.module)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The sum around the module. Raises `EditError` if the places are of another model."""
        self.places.check(axes)
        row = self._place.row
        if not row:
            return summed(axes.model, self.module)
        container = self.places.containers[row[0].rpartition(".")[0]]
        return summed_row(axes.model, container, row)

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """Zeros in the copy's last layer."""
        flow = self.places.flow
        names: set[str] = set()
        for call in calls_of(flow, self._place.modules):
            found = silenced_by(flow, flow.version(call.outputs[0], call.last))
            assert not isinstance(found, Obstacle), "the place would be frozen"
            names.update(found)
        parts = {id(part) for part in planting.made[id(branch_in(record))].modules()}
        set_zero(planting, [pair for pair in planting.copies if id(pair[1]) in parts], names)

    def inexact(self) -> tuple[str, ...]:
        """Nothing: the copy is silent."""
        return ()

    @property
    def _place(self) -> Addition:
        return self.places.addition("add", self.module)


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
        EditError: there is no such place, or it is frozen: the module is not called, does not return a tensor, has no
            units that it alone produces, or several kinds of them, or the model cannot do with a concatenation there.
    """

    places: Places = field(repr=False)
    module: str
    units: int

    def __post_init__(self) -> None:
        if not FEWEST_UNITS <= whole_number(self.units, "the number of units of a branch") <= MAX_UNITS:
            raise EditError(
                f"ConcatBranch: expected 2 or more units (a single one of a concatenation cannot be told from a length "
                f"that broadcasts), at most {MAX_UNITS}; got {self.units!r}"
            )
        self.places.addition("cat", self.module)

    def widths(self, axes: AxisMap) -> Widths:
        """Room beside the module's units."""
        return Widths(opened=(Opening(axis=self._axis.name, module=self.module, units=self.units),))

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The concatenation. Raises `EditError` if the places are of another model."""
        self.places.check(axes)
        return appended(axes, self._place, self.units)

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """The branch's units start as newborns."""
        copied = planting.made[id(branch_in(record))]
        own = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
        gather = Gather((-1,) * self.units, (True,) * self.units)
        seed = int(torch.randint(2**31, (), device="cpu"))
        axis = axes.axes[self._axis.index]
        computation = Computation(axes, [Gathering(axis, gather, ZeroFanOut())], seed)
        for name, layout in tensors_over(axes, self.module, axis):
            value, _ = computation.tensor(layout, planting.before[layout.name].detach())
            own[name].copy_(value)

    def inexact(self) -> tuple[str, ...]:
        """The couplings of the module's units."""
        return tuple(ZeroFanOut().inexact(self._axis, Gather.grow(self._axis.size, self.units)))

    @property
    def _place(self) -> Addition:
        return self.places.addition("cat", self.module)

    @property
    def _axis(self) -> Axis:
        return self.places.axes[self._place.units]
