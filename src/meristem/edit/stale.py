"""Who still holds a parameter that an edit replaced: such a list trains, clips or regularizes nothing any more.

Counting references is cheap and settles the usual case, in which nobody does (an autograd graph that is still alive is
discounted). Only otherwise is the heap searched for the holders.
"""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

REMEDY = (
    "build it again from model.parameters(), or replace its entries: `[commit.replaced.get(p, p) for p in parameters]`"
)


class StaleParameterWarning(UserWarning):
    """Something outside the model still holds parameters that an edit replaced."""


@dataclass(frozen=True)
class StaleHolder:
    """One object that still holds replaced parameters.

    Attributes:
        holder: what it is, and where it hangs.
        parameters: the names of the parameters, as they are called in the model.
    """

    holder: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.parameters[:3]) + (", ..." if len(self.parameters) > 3 else "")
        return f"{self.holder} still holds {len(self.parameters)} replaced parameters ({names}); {REMEDY}"


def stale_holders(old: Mapping[str, weakref.ref[Any]]) -> tuple[StaleHolder, ...]:
    """All containers, objects and closures that hold one of these replaced parameters.

    Plain local and global variables are not reported (every `for p in model.parameters()` leaves one), nor are autograd
    graphs.
    """
    suspects = {name: reference for name, reference in old.items() if _held(reference)}
    if not suspects:
        return ()
    tensors = [reference() for reference in suspects.values()]
    names = dict(zip(map(id, tensors), suspects, strict=True))
    found = []
    for holder in gc.get_referrers(*tensors):
        if holder is not tensors and _reportable(holder):
            held = tuple(dict.fromkeys(names[id(entry)] for entry in _entries(holder) if id(entry) in names))
            found.append(StaleHolder(_described(holder, ignore=[tensors]), held))
    return tuple(found)


def _held(reference: weakref.ref[Any]) -> bool:
    """Whether anything but an autograd graph holds the tensor."""
    count, in_graph = _references(reference)
    if count == 0:
        return False
    free, graph, both = _baseline()
    if both == graph:  # this PyTorch does not show a graph's reference once Python holds one: search to be sure
        return True
    return count > (graph if in_graph else free)


def _references(reference: weakref.ref[Any]) -> tuple[int, bool]:
    tensor = reference()
    if tensor is None:
        return 0, False
    return sys.getrefcount(tensor), tensor._use_count() > 1  # type: ignore[attr-defined]


@cache
def _baseline() -> tuple[int, int, int]:
    """What `_references` counts for a tensor that nothing holds, that a graph holds, that a graph and a list hold."""
    with torch.inference_mode(False), torch.enable_grad():
        tensor = nn.Parameter(torch.zeros(1))
        reference: weakref.ref[Tensor] = weakref.ref(tensor)
        kept: list[Any] = [tensor]
        del tensor
        free = _references(reference)[0] - 1
        kept.append(kept[0] * 1)
        both = _references(reference)[0]
        kept[0] = None
        graph = _references(reference)[0]
    return free, graph, both


_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_PASSING = (types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, torch._C._FunctionBase)


def _reportable(holder: Any) -> bool:
    if isinstance(holder, _PASSING):
        return False
    if isinstance(holder, types.CellType):
        return _function_of(holder) is not None  # else a plain local variable of a running function
    return not (isinstance(holder, dict) and "__builtins__" in holder)


def _entries(holder: Any) -> Iterable[Any]:
    if isinstance(holder, dict):
        return [*holder.keys(), *holder.values()]
    if isinstance(holder, _CONTAINERS):
        return holder
    if isinstance(holder, types.CellType):
        return [holder.cell_contents]
    return gc.get_referents(holder)


def _described(holder: Any, ignore: Sequence[Any], depth: int = 3) -> str:
    """What an object is, and by which name somebody holds it."""
    owners = [o for o in gc.get_referrers(holder) if not any(o is i for i in ignore)]
    if isinstance(holder, types.CellType):
        return f"the closure of {_function_of(holder) or 'a running function'}"
    if not isinstance(holder, _CONTAINERS):
        return f"an instance of {_type(holder)}"
    for owner in owners:
        if getattr(owner, "__dict__", None) is holder:
            return f"an instance of {_type(owner)}"
    what = f"a {type(holder).__name__} of {len(holder)}"
    frame_name = _local_name(holder)
    if frame_name:
        return f"{what} ({frame_name})"
    for owner in owners:
        if isinstance(owner, dict) and "__builtins__" in owner:
            return f"{what} (the variable {_key(owner, holder)!r} of the module {owner.get('__name__')})"
        if not isinstance(owner, (*_CONTAINERS, *_PASSING, types.CellType)):
            name = _key(getattr(owner, "__dict__", {}), holder)
            return f"{what} (attribute {name!r} of an instance of {_type(owner)})"
    for owner in owners:
        if isinstance(owner, types.CellType):
            return f"{what} in the closure of {_function_of(owner) or 'a running function'}"
        if isinstance(owner, _CONTAINERS) and depth:
            return f"{what} in {_described(owner, [*ignore, owners], depth - 1)}"
    return what


def _function_of(cell: types.CellType) -> str | None:
    """The name of a function whose closure this is."""
    for closure in gc.get_referrers(cell):
        if isinstance(closure, tuple):
            for function in gc.get_referrers(closure):
                if isinstance(function, types.FunctionType):
                    return f"{function.__module__}.{function.__qualname__}"
    return None


def _local_name(value: Any) -> str | None:
    """The name of a local variable on the stack that is this object, and of its function."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") != __name__ and frame.f_code.co_name != "<module>":
            for name, local in frame.f_locals.items():
                if local is value:
                    return f"the variable {name!r} of {frame.f_code.co_name}() in {frame.f_code.co_filename}"
        frame = frame.f_back
    return None


def _key(mapping: Mapping[Any, Any], value: Any) -> Any:
    return next((key for key, entry in mapping.items() if entry is value), None)


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
