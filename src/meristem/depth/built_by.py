"""Which entries of a configuration say how many children a container is built with, on evidence: models built anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from meristem.axes.attributes import Path, read, write
from meristem.depth.container import Container, Held, is_flat
from meristem.edit.config_models import built_from
from meristem.edit.config_search import values
from meristem.errors import EditError


class Builds:
    """The models that a model's class builds from its configuration when entries of it say one more.

    A configuration is any plain object that the model holds and that its class can be built from. Each model is built
    once for all containers, on the meta device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._built: dict[tuple[str, frozenset[Path]], nn.Module | None] = {}

    def followed(self, container: Container) -> Container:
        """A container with those counts and lists alone that say in a configuration how many children it is built with.

        A number does, also one in a list, like the depth of one stage among those of all, if the container has one
        child more where the number is one more; if none does, a list by its length, or a number together with the lists
        that have an entry for each child. Of its positions those go that the further child does not hold: in two blocks
        a number may equal the position by chance.
        """
        counts: dict[Held, None] = {}
        lists: dict[Held, None] = {}
        positions = container.positions
        for name, settings in _configurations(self._model):
            if len(self._children(name, [], container)) != len(container.names):
                continue
            for numbers, more in self._growing(name, settings, container):
                counts.update((Held("", (name, *path)), None) for path in numbers)
                lists.update((Held("", (name, *path)), None) for path in more)
                *_, further = self._children(name, [*numbers, *more], container)
                positions = tuple(held for held in positions if _may_hold(further, held, len(container.names)))
        return replace(container, counts=tuple(counts), lists=tuple(lists), positions=positions)

    def _growing(self, name: str, settings: Any, container: Container) -> list[tuple[list[Path], list[Path]]]:
        """The paths of numbers in a configuration, and of the lists that must grow with each, for one child more."""
        length = len(container.names)
        found = list(values(settings))
        numbers = [[path] for path, value in found if type(value) is int and value == length]
        lists = [path for path, value in found if is_flat(value) and len(value) == length]

        def grows(number: list[Path], more: list[Path]) -> bool:
            return len(self._children(name, [*number, *more], container)) == length + 1

        def least(number: list[Path], more: list[Path]) -> list[Path]:
            for path in more:
                less = [other for other in more if other != path]
                more = less if grows(number, less) else more
            return more

        ways: list[list[tuple[list[Path], list[Path]]]] = [
            [(number, []) for number in numbers],
            [([], [path]) for path in lists],
            [([], lists)],
            [(number, lists) for number in numbers],
        ]
        growing = ([(number, least(number, more)) for number, more in way if grows(number, more)] for way in ways)
        return next(filter(None, growing), [])

    def _children(self, name: str, longer: Sequence[Path], container: Container) -> list[nn.Module | None]:
        """The children of a container in the model built from a configuration of which these entries say one more; none
        if there is no such model, or no container in it."""
        key = name, frozenset(longer)
        if key not in self._built:
            self._built[key] = self._build(name, longer)
        built = self._built[key]
        found = None if built is None else dict(built.named_modules()).get(container.path)
        return [] if found is None else list(found._modules.values())

    def _build(self, name: str, longer: Sequence[Path]) -> nn.Module | None:
        def build(config: Any) -> nn.Module:
            return type(self._model)(_longer(config, longer))

        try:
            return built_from(getattr(self._model, name), build)
        except EditError:  # built from something else, or refused: no evidence
            return None


def _longer(config: Any, paths: Sequence[Path]) -> Any:
    """The configuration with numbers that are one more, and lists with their last entry once more."""
    for path in paths:
        value = read(config, path)
        write(config, path, value + 1 if isinstance(value, int) else type(value)([*value, value[-1]]))
    return config


def _may_hold(child: nn.Module | None, held: Held, position: int) -> bool:
    """Whether nothing speaks against it that a child holds its position there."""
    part = None if child is None else dict(child.named_modules()).get(held.module)
    return part is None or read(part, held.path) in (None, position)


def _configurations(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Plain objects that the model holds and that its class might build it from."""
    for name, value in vars(model).items():
        plain = not isinstance(value, (nn.Module, Tensor, type)) and not callable(value)
        if plain and not name.startswith("_") and hasattr(value, "__dict__"):
            yield name, value
