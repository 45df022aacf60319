"""Every place in which an object holds a tensor that is replaced, whatever the place is called.

A module holds its parameters in `__dict__["_parameters"]`, tied ones under several names, an `nn.RNN` also in a list
and in weak references; an optimizer holds them in its groups. One rule covers them all: a value in a dict, list, tuple
or set, however deep, that *is* the old tensor becomes the new one.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from meristem.edit.journal import SetContents, SetItem, Step
from meristem.edit.modules import modules_of

_ATOMS = frozenset((bool, int, float, str, bytes, type(None), type))
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set, frozenset, deque))


class Successors:
    """Which tensor follows which, by identity."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._pairs = {id(old): (old, new) for old, new in pairs}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._pairs.values())

    def of(self, value: Any) -> Any:
        """The successor of a tensor; anything else comes back as it is."""
        found = self._pairs.get(id(value))
        return value if found is None else found[1]


def module_steps(roots: Iterable[nn.Module], successors: Successors) -> list[Step]:
    """Steps that replace tensors wherever the modules hold them: parameters, buffers, plain attributes, containers."""
    finder = _Finder(successors)
    for module in dict.fromkeys(module for root in roots for module in modules_of(root).values()):
        finder.attributes(module, skip=("_modules",))
    return finder.steps


def object_steps(owner: object, successors: Successors, skip: tuple[str, ...] = ()) -> list[Step]:
    """Steps that replace tensors in the attributes of any object, except in those to skip."""
    finder = _Finder(successors)
    finder.attributes(owner, skip)
    return finder.steps


class _Finder:
    """Walks through nested containers once each and collects the steps."""

    def __init__(self, successors: Successors) -> None:
        self.steps: list[Step] = []
        self._successors = successors
        self._seen: set[int] = set()

    def attributes(self, owner: object, skip: tuple[str, ...] = ()) -> None:
        self._items(vars(owner), ((name, value) for name, value in vars(owner).items() if name not in skip))

    def visit(self, container: Any) -> None:
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        if not isinstance(container, dict):
            self._items(container, enumerate(container))
        elif any(self._successors.of(key) is not key for key in container if isinstance(key, Tensor)):
            items = tuple(container.items())
            new = tuple((self._successors.of(key), self._replaced(value)) for key, value in items)
            self.steps.append(SetContents(container, items, new))
        else:
            self._items(container, container.items())

    def _items(self, container: Any, items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in items:
            kind = type(value)
            if kind in _ATOMS or (kind in _CONTAINERS and not value):
                continue
            new = self._replaced(value)
            if new is not value:
                self.steps.append(SetItem(container, key, value, new))

    def _replaced(self, value: Any) -> Any:
        """What stands for a value: itself, unless it is an old tensor or an immutable container of one."""
        if isinstance(value, Tensor):
            return self._successors.of(value)
        if isinstance(value, (dict, list, deque)):
            self.visit(value)
        elif isinstance(value, weakref.ref):
            target = value()
            if isinstance(target, Tensor) and self._successors.of(target) is not target:
                return weakref.ref(self._successors.of(target))
        elif isinstance(value, (tuple, set, frozenset)):
            new = [self._replaced(entry) for entry in value]
            if any(a is not b for a, b in zip(new, value, strict=True)):
                return value._make(new) if hasattr(value, "_make") else type(value)(new)  # type: ignore[attr-defined]
        return value
