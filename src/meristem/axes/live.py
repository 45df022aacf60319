"""Numbers that a path meets on its way and that may change while the model is trained: read where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from meristem.axes.attributes import Path, read
from meristem.errors import SignalError, StaleMapError

if TYPE_CHECKING:
    from meristem.axes.path import Step

Model: TypeAlias = "Callable[[], nn.Module | None]"
"""A weak reference to a model."""


@dataclass(frozen=True, slots=True)
class Live:
    """A number that a module holds: a parameter or buffer, or a Python attribute.

    Attributes:
        module: qualified name of the module.
        path: how to reach it from there.
        steps: what the code makes of it before units meet it, in order.
        model: whose it is.
    """

    module: str
    path: Path
    steps: tuple[Step, ...] = ()
    model: Model | None = field(default=None, compare=False, repr=False)

    def bound(self, model: Model) -> Live:
        """The same of another model."""
        return replace(self, model=model)

    def value(self, like: Tensor) -> Any:
        """What it is today, in the dtype and on the device of a tensor."""
        found = read(owner(self.model, self.module), self.path)
        if not isinstance(found, Tensor):
            return found
        found = found.detach()
        for step in self.steps:
            found = step(found)
        return found.reshape(()).to(like)


@dataclass(frozen=True, slots=True)
class Computed:
    """A number that the code may compute from attributes: known as long as these stay as they were.

    Attributes:
        number: what it was when the model was traced.
        module: qualified name of the module.
        held: attributes that the code mentions, with what they held.
        where: the place in the code.
        model: whose it is.
    """

    number: float
    module: str
    held: tuple[tuple[Path, float], ...]
    where: str
    model: Model | None = field(default=None, compare=False, repr=False)

    def bound(self, model: Model) -> Computed:
        """The same of another model."""
        return replace(self, model=model)

    def value(self, like: Tensor) -> float:
        """The number.

        Raises:
            SignalError: an attribute has changed.
        """
        module = owner(self.model, self.module)
        for path, before in self.held:
            if (now := read(module, path)) != before:
                name = ".".join(map(str, (*filter(None, [self.module]), *path)))
                raise SignalError(
                    f"{name} was {before} when the model was traced and is {now}; what the code at {self.where} makes "
                    "of it cannot be known. Trace the model anew before the next edit, or let the code multiply by "
                    "the attribute itself"
                )
        return self.number


def owner(model: Model | None, module: str) -> nn.Module:
    """The module of that name, as it is today."""
    found = None if model is None else model()
    if found is None:
        raise StaleMapError("the traced model no longer exists; keep a reference to it, or trace the new model")
    return found.get_submodule(module)
