"""A module whose children are called one after the other, and what must follow when it gets others.

Children in a row have names that count (`0`, `1`, ... or `layer1`, `layer2`, ...) and, in some models, know their
position; models hold the number of blocks in plain attributes or in a configuration, and lists with an entry per block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import nn

from meristem.axes.attributes import Path, lengths_of, read
from meristem.edit.tree import Built, Node, Old, Scalar, Setting, TreeRecord

_NUMBERED = re.compile(r"(.*?)(\d+)$")
_ATOMS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Held:
    """A plain attribute of a module: the path of the module, and that of the value in it."""

    module: str
    path: Path


@dataclass(frozen=True)
class Container:
    """A module whose children may change.

    Attributes:
        path: its path.
        names: of its children, in order.
        counts: attributes that hold the number of its children and change with it.
        lists: attributes that hold a list with an entry for each child.
        positions: attributes in which each child holds its position, by their paths from the child.
    """

    path: str
    names: tuple[str, ...]
    counts: tuple[Held, ...] = ()
    lists: tuple[Held, ...] = ()
    positions: tuple[Held, ...] = ()

    def child(self, position: int) -> str:
        """The path of a child."""
        return f"{self.path}.{self.names[position]}" if self.path else self.names[position]

    @property
    def unchanged(self) -> list[Node]:
        """Its children as they are, to be rearranged."""
        return [Old(old=self.child(position)) for position in range(len(self.names))]

    def rearranged(self, model: nn.Module, children: Sequence[Node]) -> TreeRecord:
        """The record that gives it these children, with everything that follows."""
        named = dict(zip(self._new_names(children), children, strict=True))
        sources = [self._source(node) for node in children]
        settings = [Setting(module=h.module, path=h.path, value=len(children)) for h in self.counts]
        for held in self.lists:
            entries = list(read(model.get_submodule(held.module), held.path))
            settings.append(Setting(module=held.module, path=held.path, value=_gathered(entries, sources)))
        for position, (name, source) in enumerate(zip(named, sources, strict=True)):
            for held in self.positions if source is not None else ():
                module = ".".join(part for part in (self.path, name, held.module) if part)
                settings.append(Setting(module=module, path=held.path, value=position))
        return TreeRecord(containers={self.path: named}, settings=settings)

    def _source(self, node: Node) -> int | None:
        """The position of the old child that a new one is or copies; None for what was built."""
        if isinstance(node, Built):
            return None
        path = node.old if isinstance(node, Old) else node.copied
        paths = [self.child(position) for position in range(len(self.names))]
        return paths.index(path) if path in paths else None

    def _kept_name(self, node: Node) -> str | None:
        """The name of an old child; of what holds some, that of the first; what comes from within one keeps its own."""
        if isinstance(node, Built):
            return next((n for child in node.children.values() if (n := self._kept_name(child)) is not None), None)
        return node.old.rpartition(".")[2] if isinstance(node, Old) else None

    def _new_names(self, children: Sequence[Node]) -> list[str]:
        """Counted names go on counting; where names are words, old children keep theirs and new ones extend one."""
        counted = _counting(self.names)
        if counted is not None:
            prefix, first = counted
            return [f"{prefix}{first + position}" for position in range(len(children))]
        kept = [self._kept_name(node) for node in children]
        taken, names, last = set(filter(None, kept)), list[str](), "new"
        for node, own in zip(children, kept, strict=True):
            source = self._source(node)
            if own is not None and own not in names:
                last = own
                names.append(last)
                continue
            base = last if source is None else self.names[source]
            name = next(f"{base}_{n}" for n in range(2, len(taken) + 3) if f"{base}_{n}" not in taken)
            taken.add(name)
            names.append(name)
        return names


def is_container(module: nn.Module) -> bool:
    """Whether a module may call its children in a row: PyTorch's containers, and children whose names count."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    return len(module._modules) > 1 and _counting(tuple(module._modules)) is not None


def container_at(model: nn.Module, path: str) -> Container:
    """The container at a path, with the positions that its children hold; counts and lists are found by rehearsals."""
    module = model.get_submodule(path)
    return Container(path, tuple(module._modules), positions=tuple(_positions(module)))


def attributes_of_length(
    model: nn.Module, container: Container
) -> tuple[tuple[Held, ...], tuple[Held, ...], tuple[Held, ...]]:
    """Attributes of the modules around a container that might hold the number of its children: those that are one
    number, and those that are one among others in a list; and lists that might have an entry for each. An object that
    several modules hold is named once."""
    length = len(container.names)
    numbers: dict[tuple[int | str, ...], Held] = {}
    in_lists: dict[tuple[int | str, ...], Held] = {}
    lists: dict[int, Held] = {}
    path = container.path
    around = [path]
    while path:
        path = path.rpartition(".")[0]
        around.append(path)
    for name in reversed(around):
        module = model.get_submodule(name)
        for where, value in lengths_of(module):
            if value == length:
                owner = read(module, where[:-1]) if len(where) > 1 else module
                found = in_lists if isinstance(owner, (list, tuple)) else numbers
                found.setdefault((id(owner), *where[len(where) - 1 :]), Held(name, where))
        for where, value in _lists_of(module):
            if len(value) == length:
                lists.setdefault(id(value), Held(name, where))
    return tuple(numbers.values()), tuple(in_lists.values()), tuple(lists.values())


def is_flat(value: Any) -> TypeGuard[Sequence[Scalar]]:
    """Whether something is a list or a tuple of numbers and strings, not empty."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(entry, _ATOMS) for entry in value)


def _lists_of(module: nn.Module) -> Iterator[tuple[Path, Sequence[Scalar]]]:
    """Lists and tuples of numbers and strings that a module holds, directly or in a configuration object."""
    for name, content in vars(module).items():
        if name.startswith("_"):
            continue
        inner = vars(content).items() if hasattr(content, "__dict__") and not callable(content) else ()
        for path, value in (((name,), content), *(((name, key), held) for key, held in inner)):
            if is_flat(value):
                yield path, value


def _positions(module: nn.Module) -> Iterator[Held]:
    """Integer attributes that hold the position of each child of a container, by their paths from the child.

    PyTorch's own modules do not know where they stand: a number there that equals the position does so by chance. (So
    may one elsewhere: `Builds.followed` looks at a longer container.)
    """
    children = [child for child in module.children() if not type(child).__module__.startswith("torch.")]
    if len(children) < 2 or len(children) != len(module._modules):
        return
    found: Mapping[tuple[str, Path], int] = dict(_numbers(children[0]))
    for position, child in enumerate(children):
        own = dict(_numbers(child))
        found = {key: value for key, value in found.items() if own.get(key) == position}
    yield from (Held(part, path) for part, path in found)


def _numbers(block: nn.Module) -> Iterator[tuple[tuple[str, Path], int]]:
    for part, module in block.named_modules():
        if not type(module).__module__.startswith("torch."):
            for name, value in vars(module).items():
                if isinstance(value, int) and not isinstance(value, bool):
                    yield (part, (name,)), value


def _counting(names: Sequence[str]) -> tuple[str, int] | None:
    """The common prefix and the first number of names that count up by one, or None."""
    matches = [_NUMBERED.match(name) for name in names]
    found = [(m.group(1), int(m.group(2))) for m in matches if m is not None]
    if len(found) != len(names):
        return None
    if not found:
        return "", 0
    prefix, first = found[0]
    return (prefix, first) if found == [(prefix, first + n) for n in range(len(names))] else None


def _gathered(entries: Sequence[Scalar], sources: Sequence[int | None]) -> list[Scalar]:
    """The entries of a list for new children; one without a source takes that of its neighbour."""
    found: list[Scalar] = []
    last = 0
    for source in sources:
        last = last if source is None else source
        found.append(entries[last])
    return found
