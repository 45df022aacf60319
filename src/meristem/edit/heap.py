"""Objects on the heap in words: what they are, and by which name somebody holds them."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch

CONTAINERS = (list, tuple, dict, set, frozenset, deque)
LINKS = (*CONTAINERS, types.CellType)
PASSING = (types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, torch._C._FunctionBase)
"""Holders that come and go by themselves: running code and autograd graphs."""

DEPTH = 5
"""How many owners are followed upwards. Each step searches the whole heap once, for all objects together."""


def described_holders(holders: Sequence[Any]) -> list[str | None]:
    """Each object in words; None for one that is only a plain variable of running code or of a module."""
    trails = [_Trail(holder) for holder in holders]
    for _ in range(DEPTH):
        still = [trail for trail in trails if not trail.ended]
        if not still:
            break
        tips = [trail.tip for trail in still]
        own = {id(thing) for thing in (holders, trails, still, tips)} | {id(trail) for trail in trails}
        owners = _owners(tips, own)
        for trail in still:
            trail.climb(owners.get(id(trail.tip), []))
    return [trail.words for trail in trails]


def entries(holder: Any) -> Iterable[Any]:
    """What an object holds directly."""
    return [*holder.keys(), *holder.values()] if isinstance(holder, dict) else gc.get_referents(holder)


class _Trail:
    """The way from an object up to somebody who has a name."""

    __slots__ = ("ended", "tip", "words")

    def __init__(self, holder: Any) -> None:
        namespace = isinstance(holder, dict) and _is_namespace(holder)
        self.tip = holder
        self.words: str | None = None if namespace else _what(holder)
        self.ended = namespace or not isinstance(holder, LINKS)

    def climb(self, owners: list[Any]) -> None:
        """One step up: to a name, if any owner gives one, else to a container or closure that holds the tip."""
        is_cell = isinstance(self.tip, types.CellType)
        name = None if is_cell else _variable(self.tip) or _name(self.tip, owners)
        above = next((owner for owner in owners if isinstance(owner, LINKS)), None)
        if name is None and above is not None:
            self.words = self.words if is_cell else f"{self.words} {_place(self.tip, above)}"
            self.tip = above
            return
        if name is not None:
            self.words = f"{self.words} {name}"
        elif is_cell and self.words == _what(self.tip):
            self.words = None  # no function has it: a plain local variable of running code
        self.ended = True


def _owners(objects: Sequence[Any], ignore: set[int]) -> dict[int, list[Any]]:
    """For each object, by identity, who refers to it; one pass over the heap."""
    wanted = {id(thing) for thing in objects}
    found: dict[int, list[Any]] = {}
    for owner in gc.get_referrers(*objects):
        if id(owner) not in ignore and not isinstance(owner, PASSING):
            for thing in {id(entry) for entry in gc.get_referents(owner)} & wanted:
                found.setdefault(thing, []).append(owner)
    return found


def _what(thing: Any) -> str:
    if isinstance(thing, CONTAINERS):
        return f"a {type(thing).__name__} of {len(thing)}"
    return "a closure" if isinstance(thing, types.CellType) else f"an instance of {_type(thing)}"


def _name(thing: Any, owners: list[Any]) -> str | None:
    """By which name one of the owners holds a container."""
    for owner in owners:
        if isinstance(owner, types.FunctionType):
            return f"of {owner.__module__}.{owner.__qualname__}"
        if isinstance(owner, dict) and _is_namespace(owner):
            return f"(the variable {_key(owner, thing)!r} of the module {owner.get('__name__')})"
        if not isinstance(owner, LINKS):
            if getattr(owner, "__dict__", None) is thing:
                return f"of an instance of {_type(owner)}"
            return f"{_place(thing, getattr(owner, '__dict__', {}))} of an instance of {_type(owner)}"
    return None


def _place(thing: Any, owner: Any) -> str:
    if isinstance(owner, dict):
        return f"under {_key(owner, thing)!r}"
    return "in a closure" if isinstance(owner, types.CellType) else f"in a {type(owner).__name__}"


def _variable(thing: Any) -> str | None:
    """The name of a local variable on the stack that is this object, and its function."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(__package__ or "") and frame.f_code.co_name != "<module>":
            for name, local in frame.f_locals.items():
                if local is thing:
                    return f"(the variable {name!r} of {frame.f_code.co_name}() in {frame.f_code.co_filename})"
        frame = frame.f_back
    return None


def _key(mapping: dict[Any, Any], value: Any) -> Any:
    return next((key for key, entry in mapping.items() if entry is value), None)


def _is_namespace(mapping: dict[Any, Any]) -> bool:
    return "__builtins__" in mapping


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
