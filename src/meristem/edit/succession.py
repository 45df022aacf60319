"""Which axes go on as which when the module tree is edited: parameters keep their units, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from meristem.axes.expression import leaves, units_along
from meristem.axes.map import AxisMap
from meristem.edit.gather import MAX_UNITS

T = TypeVar("T")


class Succession(BaseModel):
    """The axes after an edit of the module tree, of those that may be edited before or after it. Axes that are not
    mentioned keep their names.

    Attributes:
        former: by its name now, what an axis was called before; several names where axes have become one.
        born: the axes that lie in new parameters only, with their sizes: all their units are newborn.
        copies: those of them that lie in copies, so that their units did not start from nothing.
        gone: the names that no axis has any more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    former: dict[str, tuple[str, ...]] = {}
    born: dict[str, Annotated[int, Field(ge=1, le=MAX_UNITS)]] = {}
    copies: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def carried(self, known: Mapping[str, T], joined: Callable[[Sequence[T]], T]) -> dict[str, T]:
        """What is known by axis name, by the names of now. Axes that are born are left out.

        Args:
            known: by the names of before.
            joined: makes one of what is known of axes that have become one.
        """
        mentioned = {*self.former, *self.born, *self.gone}
        found = {name: value for name, value in known.items() if name not in mentioned}
        for name, before in self.former.items():
            values = [known[old] for old in before if old in known]
            if values:
                found[name] = values[0] if len(values) == 1 else joined(values)
        return found

    def names(self, before: Sequence[str]) -> list[str]:
        """The axes of these names, by their names now, each once; those that are gone are left out."""
        marks = self.carried(dict.fromkeys(before, True), any)
        order = {old: place for place, old in enumerate(before)}
        place = {name: min(order.get(old, len(order)) for old in self.former.get(name, (name,))) for name in marks}
        return sorted(marks, key=place.__getitem__)

    def before(self, name: str) -> tuple[str, ...]:
        """What an axis was called before the edit; nothing if it was born by it."""
        return () if name in self.born else self.former.get(name, (name,))


def succession(
    before: AxisMap,
    after: AxisMap,
    moved: Mapping[str, str],
    copies: Sequence[str],
    begun: Container[int] = (),
) -> Succession:
    """How the axes of a model went through an edit of its module tree.

    An axis goes on as another one if in some dimension of a parameter that stayed the units of the one lie where those
    of the other lay, in the same order.

    Args:
        before, after: the maps.
        moved: the new name of every parameter and buffer that stayed, by its old one.
        copies: the names of the new parameters and buffers that are copies of others.
        begun: the axes of the earlier map, by number, that had no units before the edit: what goes on as one is born.
    """
    former: dict[int, dict[int, None]] = {axis.index: {} for axis in after}
    open_before, open_after = ({axis.index for axis in axes.editable} for axes in (before, after))
    stayed: set[int] = set()
    for old, new in moved.items():
        if old not in before.layouts or new not in after.layouts:
            continue
        for one, two in zip(before.layouts[old].dims, after.layouts[new].dims, strict=True):
            stayed.update(leaves(two))
            for axis in dict.fromkeys(leaves(two)):
                units = units_along(two, axis, after.sizes)
                for earlier in dict.fromkeys(leaves(one)):
                    if axis not in open_after and earlier not in open_before:
                        continue
                    if before.sizes[earlier] == after.sizes[axis] and torch.equal(
                        units, units_along(one, earlier, before.sizes)
                    ):
                        former[axis][earlier] = None
    copied = {
        axis for name in copies if name in after.layouts for dim in after.layouts[name].dims for axis in leaves(dim)
    }
    own = {axis: [old for old in olds if old not in begun] for axis, olds in former.items()}
    names = {axis.name: tuple(before.axes[old].name for old in own[axis.index]) for axis in after}
    stayed -= {axis for axis, olds in former.items() if olds and not own[axis]}
    born = [axis for axis in after.editable if axis.index not in stayed]
    return Succession(
        former={name: olds for name, olds in names.items() if olds and olds != (name,)},
        born={axis.name: axis.size for axis in born},
        copies=tuple(axis.name for axis in born if axis.index in copied),
        gone=tuple(a.name for a in before.editable if a.index not in begun and a.name not in after.by_name),
    )
