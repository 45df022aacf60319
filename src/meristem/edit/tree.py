"""The record of a depth edit as JSON: what becomes of the module tree.

A container of blocks is an axis whose units are modules, and a depth edit gathers them: each new child is an old one, a
copy of an old one, or newly built. All paths of old modules are those before the edit.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from meristem.edit.gather import MAX_UNITS
from meristem.edit.joints import JOINTS
from meristem.errors import EditError

Scalar: TypeAlias = bool | Annotated[int, Field(ge=-MAX_UNITS, le=MAX_UNITS)] | float | str | None
Option: TypeAlias = Scalar | list[Scalar]
Length: TypeAlias = Annotated[int, Field(ge=1, le=MAX_UNITS)]


class Old(BaseModel):
    """An old module, the same object.

    Attributes:
        old: its path before the edit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    old: str


class Copied(BaseModel):
    """A copy of an old module.

    Attributes:
        copied: the path of that before the edit.
        shapes: by its name in the module, the shape of each tensor that is not copied but born: with other units.
        fresh: whether only its structure is copied: all its tensors start afresh and take over nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    copied: str
    shapes: dict[str, list[Length]] = {}
    fresh: bool = False


class Built(BaseModel):
    """A new module.

    Attributes:
        build: its class: one of `torch.nn`, or one of `meristem.edit.joints`.
        options: the keyword arguments of its constructor.
        children: what it contains, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    build: str
    options: dict[str, Option] = {}
    children: dict[str, Node] = {}


Node: TypeAlias = Old | Copied | Built


class Setting(BaseModel):
    """A plain attribute that is set.

    Attributes:
        module: the path of the module after the edit.
        path: how to reach the value from it: attribute names, positions and keys.
        value: the new value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    path: tuple[str | int, ...]
    value: Option


class Opening(BaseModel):
    """Room for units beside those of a module, in all that reads them; new modules produce them.

    Attributes:
        axis: the axis of the module's units.
        module: the path of the module.
        units: how many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    axis: str
    module: str
    units: Length


class Widths(BaseModel):
    """What a change of the module tree does to units, before the tree is changed.

    Attributes:
        emptied: axes of which all units go, because the modules go that produce them.
        opened: axes that begin beside others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    emptied: tuple[str, ...] = ()
    opened: tuple[Opening, ...] = ()

    def joined(self, other: Widths) -> Widths:
        """Both at once."""
        return Widths(emptied=(*self.emptied, *other.emptied), opened=(*self.opened, *other.opened))


NO_WIDTHS = Widths()


class TreeRecord(BaseModel):
    """What happens to the module tree.

    Attributes:
        widths: what happens to units first.
        containers: by its path, the new children of a module, which stays the same object.
        slots: by its path, what takes the place of a module, wherever the model holds it.
        settings: plain attributes that change with it: numbers of blocks, positions of blocks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    containers: dict[str, dict[str, Node]] = {}
    slots: dict[str, Node] = {}
    settings: list[Setting] = []
    widths: Widths = NO_WIDTHS

    def joined(self, other: TreeRecord) -> TreeRecord:
        """Both at once. Raises `EditError` where they want different things of one place."""
        for path in {*self.containers} & {*other.containers} | {*self.slots} & {*other.slots}:
            raise EditError(f"two depth edits change {path or 'the model'!r}; commit the first before the second")
        return TreeRecord(
            containers={**self.containers, **other.containers},
            slots={**self.slots, **other.slots},
            settings=[*self.settings, *other.settings],
            widths=self.widths.joined(other.widths),
        )


def class_of(build: str) -> type[nn.Module]:
    """The class of that name. Raises `EditError` unless it is a module of `torch.nn` or of `joints`."""
    found = JOINTS.get(build) or (getattr(nn, build, None) if build in nn.modules.__all__ else None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise EditError(f"a record builds {build!r}; only modules of torch.nn and {', '.join(JOINTS)} can be built")
    return found


Built.model_rebuild()
