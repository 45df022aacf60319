"""Python attributes that hold a length: reading, writing and finding them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import CodeType
from typing import Any, TypeAlias

from torch import Tensor, nn

Path: TypeAlias = "tuple[str | int, ...]"
"""How to reach a value from a module: attribute names, positions in tuples and lists, keys of dictionaries."""

ABSENT = (AttributeError, LookupError, TypeError, ValueError)
"""What looking for something along a path raises where there is nothing, or something of another kind."""

_OPAQUE = (nn.Module, Tensor, type, str, bytes, int, float, complex, bool)


def at(holder: Any, step: str | int) -> Any:
    """What is found at one step of a path: an entry of a mapping or sequence, an attribute of anything else.

    Raises:
        one of `ABSENT`: there is nothing.
    """
    if isinstance(holder, Mapping):
        return holder[step]
    return holder[int(step)] if isinstance(holder, (list, tuple)) else getattr(holder, str(step))


def read(holder: Any, path: Path) -> Any:
    """The value at a path; None if there is none."""
    try:
        for step in path:
            holder = at(holder, step)
    except ABSENT:
        return None
    return holder


def write(holder: Any, path: Path, value: Any) -> None:
    """Set the value at a path; tuples on the way are rebuilt."""
    step, rest = path[0], path[1:]
    if rest:
        value = _replaced(at(holder, step), rest, value)
    if isinstance(holder, (list, MutableMapping)):
        holder[step] = value  # pyright: ignore[reportArgumentType, reportCallIssue]
    else:
        setattr(holder, str(step), value)


def _replaced(holder: Any, path: Path, value: Any) -> Any:
    """The holder with the value set: itself if it can be changed, a new one if it is a tuple."""
    if isinstance(holder, tuple):
        return exchanged(holder, path[0], _replaced(holder[int(path[0])], path[1:], value) if path[1:] else value)
    write(holder, path, value)
    return holder


def exchanged(holder: Any, step: str | int, value: Any) -> Any:
    """Another tuple, list, mapping or object, like this one but for one value."""
    if isinstance(holder, tuple):
        items: list[Any] = list(holder)
        items[int(step)] = value
        return holder._make(items) if hasattr(holder, "_make") else type(holder)(items)  # pyright: ignore[reportAttributeAccessIssue]
    other = copy.copy(holder)
    write(other, (step,), value)
    return other


@contextmanager
def written(model: nn.Module, values: Iterable[tuple[str, Path, int]]) -> Iterator[None]:
    """Attributes of modules set to other values for a while."""
    saved: list[tuple[nn.Module, Path, Any]] = []
    try:
        for name, path, value in values:
            module = model.get_submodule(name)
            saved.append((module, path, read(module, path)))
            write(module, path, value)
        yield
    finally:
        for module, path, value in reversed(saved):
            write(module, path, value)


def lengths_of(module: nn.Module) -> Iterator[tuple[Path, int]]:
    """Every integer that a module holds: directly, in a tuple, list or dictionary, or in a configuration object."""
    for name, content in vars(module).items():
        if not name.startswith("_") or isinstance(content, int):
            yield from _lengths((name,), content, depth=2)


def numbers_of(module: nn.Module) -> Iterator[tuple[Path, int | float]]:
    """Every number that a module holds, likewise."""
    for name, content in vars(module).items():
        if not name.startswith("_") or isinstance(content, (int, float)):
            yield from _numbers((name,), content, depth=2)


def lengths_of_children(module: nn.Module) -> Iterator[tuple[Path, int]]:
    """Every integer that a module's children hold, by its path from the module."""
    for name, child in module.named_children():
        for path, content in lengths_of(child):
            yield (name, *path), content


def _lengths(path: Path, content: Any, depth: int) -> Iterator[tuple[Path, int]]:
    return ((path, number) for path, number in _numbers(path, content, depth) if isinstance(number, int))


def _numbers(path: Path, content: Any, depth: int) -> Iterator[tuple[Path, int | float]]:
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        yield path, content
    elif depth == 0 or callable(content) or isinstance(content, _OPAQUE):
        return
    elif isinstance(content, (list, tuple)):
        for i, item in enumerate(content):
            yield from _numbers((*path, i), item, depth - 1)
    elif isinstance(content, Mapping):
        for key, item in content.items():
            if isinstance(key, str):
                yield from _numbers((*path, key), item, depth - 1)
    elif hasattr(content, "__dict__"):
        for name, item in vars(content).items():
            yield from _numbers((*path, name), item, depth - 1)


def mentioned(path: Path, code: Iterable[CodeType]) -> bool:
    """Whether these functions mention every name on the path."""
    names = {name for each in code for name in (*each.co_names, *(c for c in each.co_consts if isinstance(c, str)))}
    return all(step in names for step in path if isinstance(step, str))
