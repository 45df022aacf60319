"""Objects in which a model keeps lengths, and other models too: a dict of options, a configuration.

They stay as they are for those others, and the model gets copies of its own, in the same transaction. Only what modules
outside hold counts: a variable in which somebody keeps the configuration sees it change, and so does a module that
contains the model.
"""

from __future__ import annotations

import copy
import gc
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from meristem.axes.attributes import ABSENT, Path, at
from meristem.edit.heap import PASSING
from meristem.edit.journal import SetItem, Step
from meristem.errors import EditError

_ENDS = (*PASSING, type, types.ModuleType, types.CodeType, Tensor)
"""What nothing is followed through: it comes and goes, is everybody's, or holds no lengths."""

_UNTRACKED = (dict, tuple)
"""What the garbage collector leaves alone as soon as it has seen that there are only numbers and the like in it."""


class Copies:
    """The copies that a model gets of its own.

    Attributes:
        steps: what puts them in the places of the originals, wherever the model holds those.
    """

    def __init__(self, originals: Iterable[Any] = (), reach: _Reach | None = None) -> None:
        self.steps: list[Step] = []
        self._pairs = {id(original): (original, copy.copy(original)) for original in originals}
        for original, twin in [*self._pairs.values()]:
            for holder in reach.holders[id(original)] if reach is not None else ():
                steps = _exchanged(self.of(holder), original, twin)
                if id(holder) not in self._pairs:
                    self.steps += steps
                    continue
                for step in steps:  # in a copy, which nobody has seen yet
                    step.do()

    def of(self, value: Any) -> Any:
        """The copy of a value, if it gets one; else the value."""
        return self._pairs.get(id(value), (None, value))[1]


def unshared(roots: Sequence[nn.Module], paths: Iterable[tuple[nn.Module, Path]]) -> Copies:
    """Copies of all objects on paths that are about to be changed and that modules outside hold as well.

    Args:
        roots: the model, and the copies of it that follow.
        paths: modules of these, and ways from them to what is to change.

    Raises:
        EditError: such an object cannot be copied for the model alone.
    """
    changed = list({id(holder): holder for module, path in paths for holder in _holders_on(module, path)}.values())
    modules = [module for root in roots for module in root.modules()] if changed else []
    if not _held_elsewhere(changed, modules):
        return Copies()
    own = _Reach(modules, ())
    foreign = _Reach(_others(own, roots), own.modules)
    found: dict[int, Any] = {}
    waiting = [one for one in changed if id(one) in foreign.holders]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            waiting += [
                holder
                for holder in own.holders[id(one)]
                if id(holder) in foreign.holders and not isinstance(holder, nn.Module)
            ]
    return Copies(found.values(), own)


def _holders_on(owner: Any, path: Path) -> Iterator[Any]:
    """The objects on the way to the last entry of a path that can be changed and are no modules, the outermost first.
    A path that leads nowhere ends where it does."""
    for key in path[:-1]:
        try:
            owner = at(owner, key)
        except ABSENT:
            return
        if isinstance(owner, tuple):
            return
        if not isinstance(owner, nn.Module):
            yield owner


def _held_elsewhere(held: Sequence[Any], modules: Sequence[nn.Module]) -> bool:
    """Whether anybody holds one of these objects besides the modules themselves; cheap, and rather too often so."""
    own: dict[int, int] = {id(holder): 0 for holder in held}
    value: Any = None
    for module in modules:
        for value in vars(module).values():
            if id(value) in own:
                own[id(value)] += 1
    value = None
    probe = [object()]
    alone = sys.getrefcount(probe[0])
    return any(sys.getrefcount(held[place]) > alone + own[id(held[place])] for place in range(len(held)))


class _Reach:
    """Everything that modules refer to, at any depth.

    Args:
        modules: where to begin.
        barred: modules, by identity, that are not entered.

    Attributes:
        holders: by the identity of each object found, who of them holds it. The attributes of an object are held by it.
        modules: the modules that were found, by identity; those to begin with, too.
    """

    def __init__(self, modules: Iterable[nn.Module], barred: Iterable[int]) -> None:
        waiting: list[Any] = list(modules)
        self.holders: dict[int, list[Any]] = {id(module): [] for module in waiting}
        self.modules: dict[int, nn.Module] = {}
        seen = set(barred)
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, nn.Module):
                self.modules[id(one)] = one
            for held in _entries(one):
                if (gc.is_tracked(held) or isinstance(held, _UNTRACKED)) and not issubclass(type(held), _ENDS):
                    self.holders.setdefault(id(held), []).append(one)
                    waiting.append(held)


def _entries(holder: Any) -> Iterable[Any]:
    """What an object holds directly, or in its attributes."""
    if isinstance(holder, types.FunctionType):  # not the variables of its Python module
        return holder.__closure__, holder.__defaults__, holder.__kwdefaults__, holder.__dict__
    attributes = _attributes(holder)
    if attributes is None:
        return gc.get_referents(holder)
    others = (one for one in gc.get_referents(holder) if one is not attributes)
    return {id(one): one for one in (*attributes.values(), *others)}.values()


def _attributes(holder: Any) -> dict[str, Any] | None:
    found = getattr(holder, "__dict__", None)
    return found if type(found) is dict else None


def _others(own: _Reach, roots: Sequence[nn.Module]) -> list[nn.Module]:
    """All modules that are neither the model's nor contain it."""
    inside = {id(root) for root in roots}
    found = [one for one in gc.get_objects() if issubclass(type(one), nn.Module) and id(one) not in own.modules]
    return [one for one in found if "_modules" in vars(one) and inside.isdisjoint(map(id, one.modules()))]


def _exchanged(holder: Any, original: Any, twin: Any) -> list[Step]:
    """Steps that put a copy wherever a holder has the original."""
    if isinstance(holder, list):
        return [SetItem(holder, place, original, twin) for place, one in enumerate(holder) if one is original]
    attributes = _attributes(holder)
    entries = holder if isinstance(holder, dict) else attributes if attributes is not None else {}
    steps: list[Step] = [SetItem(entries, key, original, twin) for key, one in entries.items() if one is original]
    if not steps:
        raise EditError(
            f"the model keeps lengths in a {type(original).__name__} that another model holds too, and refers to it "
            f"from a {type(holder).__name__} that cannot be given a copy of its own; build each model with its own "
            f"{type(original).__name__}, or edit a copy.deepcopy of the model"
        )
    return steps
