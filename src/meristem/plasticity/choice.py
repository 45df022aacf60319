"""The axes that a controller may edit, through edits of the module tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from meristem.allocate import Selection, choose_among
from meristem.axes import Axis, AxisMap
from meristem.edit.succession import Succession

Unable: TypeAlias = "Callable[[AxisMap, Axis], str | None]"
"""Why an axis cannot be edited by what a controller was given, or None if it can."""


@dataclass(frozen=True)
class Choice:
    """Which axes may be edited.

    Attributes:
        names: of these axes.
        selection: what chooses axes of new layers.
        unable: which axes are left out, although they are chosen.
    """

    names: tuple[str, ...]
    selection: Selection = field(repr=False)
    unable: Unable = field(repr=False)

    def axes(self, axes: AxisMap) -> list[Axis]:
        """The axes."""
        return [axes.by_name[name] for name in self.names]

    def after(self, axes: AxisMap, succession: Succession) -> Choice:
        """The choice after an edit of the module tree: those that are gone are left out, those of new layers join if
        they are chosen, and whatever cannot be edited any more leaves.

        Args:
            axes: the map after it.
            succession: which axes there are after it.
        """
        able = (axis.name for axis in self.foreseen(axes, succession) if self.unable(axes, axis) is None)
        return replace(self, names=tuple(able))

    def foreseen(self, axes: AxisMap, succession: Succession) -> list[Axis]:
        """The axes of such a choice before the edit is made; there is no model yet that could say which of the new ones
        must be left out.

        Args:
            axes: the map that is predicted.
            succession: which axes there will be.
        """
        joining = choose_among(axes, self.selection, succession.born)
        names = [*succession.names(self.names), *(axis.name for axis in joining)]
        found = [axes.by_name[name] for name in dict.fromkeys(names) if name in axes.by_name]
        return [axis for axis in found if axis.editable]
