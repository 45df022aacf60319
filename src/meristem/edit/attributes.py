"""The Python attributes that hold lengths: read, checked and changed along a path through objects and tuples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from meristem.axes.attributes import ABSENT, Path, at, exchanged
from meristem.axes.expression import leaves, size_of
from meristem.axes.map import AttributeBinding, AxisMap
from meristem.edit.journal import SetAttribute, SetItem, Step
from meristem.edit.modules import modules_of
from meristem.edit.unshare import Copies, unshared
from meristem.errors import StaleMapError


def edited_bindings(axes: AxisMap, edited: Iterable[int]) -> list[AttributeBinding]:
    """The attributes whose length depends on any of the edited axes (by number)."""
    edited = set(edited)
    return [binding for binding in axes.attributes if not edited.isdisjoint(leaves(binding.value))]


def check_attributes(model: nn.Module, bindings: Iterable[AttributeBinding], sizes: Sequence[int]) -> None:
    """Raise `StaleMapError` unless every attribute exists and holds the length that the map says."""
    modules = modules_of(model)
    for binding in bindings:
        try:
            value: Any = modules[binding.module]
            for key in binding.path:
                value = at(value, key)
        except ABSENT:
            raise StaleMapError(
                f"the attribute {_where(model, binding)} no longer exists; trace the model again"
            ) from None
        expected = size_of(binding.value, sizes)
        if value != expected:
            raise StaleMapError(
                f"the attribute {_where(model, binding)} is {value!r}, the map says {expected}; trace the model again"
            )


def _where(model: nn.Module, binding: AttributeBinding) -> str:
    return f"{binding.module or type(model).__name__}.{'.'.join(map(str, binding.path))}"


def attribute_steps(
    roots: Sequence[nn.Module], bindings: Sequence[AttributeBinding], sizes: Sequence[int]
) -> list[Step]:
    """Steps that set every attribute of a model and of its copies to its length when axes have these sizes.

    Tuples are rebuilt. Where another model holds the object with the attribute, it gets a copy of its own.

    Raises:
        EditError: that is not possible.
    """
    modules = [modules_of(root) for root in roots] if bindings else []
    places = [(by_path[binding.module], binding) for by_path in modules for binding in bindings]
    copies = unshared(roots, ((module, binding.path) for module, binding in places))
    pending: dict[tuple[int, str | int], tuple[Any, str | int, Any, Any]] = {}
    for module, binding in places:
        owner, key, rest = _slot(module, binding.path, copies)
        old = at(owner, key)
        current = pending.get((id(owner), key), (owner, key, old, old))[3]
        pending[id(owner), key] = (owner, key, old, _rebuilt(current, rest, size_of(binding.value, sizes)))
    return [*copies.steps, *(_step(owner, key, old, new) for owner, key, old, new in pending.values())]


def replaced_at(owner: Any, path: Path, value: Any) -> Step:
    """A step that sets what a path leads to; tuples on the way are rebuilt."""
    owner, key, rest = _slot(owner, path, Copies())
    old = at(owner, key)
    return _step(owner, key, old, _rebuilt(old, rest, value))


def _slot(owner: Any, path: Path, copies: Copies) -> tuple[Any, str | int, Path]:
    """The last mutable object on a path, the key in it, and the rest of the path, which leads through tuples."""
    for depth, key in enumerate(path):
        value = at(owner, key)
        if depth == len(path) - 1 or isinstance(value, tuple):
            return owner, key, path[depth + 1 :]
        owner = copies.of(value)
    raise ValueError("an attribute binding needs a path")


def _rebuilt(value: Any, path: Path, new: Any) -> Any:
    """What replaces a value in which something changes; nothing is changed in place."""
    return exchanged(value, path[0], _rebuilt(at(value, path[0]), path[1:], new)) if path else new


def _step(owner: Any, key: str | int, old: Any, new: Any) -> Step:
    if isinstance(owner, (Mapping, list)):
        return SetItem(owner, key, old, new)
    return SetAttribute(owner, str(key), old, new)
