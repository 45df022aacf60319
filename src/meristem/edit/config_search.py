"""Which numbers of a configuration to change for sizes to be right: those that help, found by trying."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from meristem.axes.attributes import Path, write
from meristem.errors import EditError

Sizes = Mapping[str, tuple[float, ...]]
"""Shapes by the name of a parameter, or by the operator call that made a tensor; and what else calls are given."""

Change = tuple[Path, int]
"""A number of a configuration, by path, and its new value."""


class Plan(Protocol):
    """What a model of a configuration has to be like."""

    def shapes(self, config: Any | None) -> Sizes:
        """The shapes of all parameters in a model of this configuration; None: in the model that is wanted.

        Raises:
            EditError: there is no such model.
        """
        ...

    def sizes(self, config: Any | None) -> Sizes:
        """As `shapes`, and the shapes of all tensors that runs on the examples make.

        Raises:
            EditError: there is no such model, or it cannot be run.
        """
        ...


def closest(plan: Plan, config: Any, wanted: Sizes) -> tuple[Any, Sizes]:
    """A copy of the configuration, changed as long as that makes more of the wanted sizes right, and its sizes.

    Raises:
        EditError: there is no model of the configuration as it is, or it cannot be run.
    """
    trial, idle = copy.deepcopy(config), set[Path]()
    found = plan.sizes(trial)
    while found != wanted:
        step = _one(plan, trial, wanted, found, idle) or _two(plan, trial, wanted, found, idle)
        if step is None:
            break
        trial, found = step
    return trial, found


def _one(plan: Plan, trial: Any, wanted: Sizes, found: Sizes, idle: set[Path]) -> tuple[Any, Sizes] | None:
    """The configuration with one number changed with which most sizes are right, and its sizes; None if nothing helps.

    Args:
        idle: paths of numbers that change nothing, which are left out; those that are found to are added.
    """
    best, step = _misfits(wanted, found), None
    for path, new in _proposals(trial, wanted, found, idle):
        try:
            changed = _changed(trial, [(path, new)])
            now = plan.sizes(changed)
        except EditError:
            continue
        if now == found:
            idle.add(path)
        elif _misfits(wanted, now) < best:
            best, step = _misfits(wanted, now), (changed, now)
    return step


def _two(plan: Plan, trial: Any, wanted: Sizes, found: Sizes, idle: set[Path]) -> tuple[Any, Sizes] | None:
    """As `_one` with two numbers changed, for a width that is a multiple of another number, say. Runs are compared
    where the parameters' shapes are no worse."""
    best, step = _misfits(wanted, found), None
    shapes = plan.shapes(None)
    limit = _misfits(shapes, plan.shapes(trial))
    for several in itertools.combinations(_proposals(trial, wanted, found, idle), 2):
        try:
            changed = _changed(trial, several)
            if _misfits(shapes, plan.shapes(changed)) > limit:
                continue
            now = plan.sizes(changed)
        except EditError:
            continue
        if _misfits(wanted, now) < best:
            best, step = _misfits(wanted, now), (changed, now)
    return step


def _changed(config: Any, changes: Sequence[Change]) -> Any:
    """A copy with other numbers. Raises `EditError` if the configuration does not take them."""
    changed = copy.deepcopy(config)
    for path, new in changes:
        try:
            write(changed, path, new)
        except Exception as error:  # configurations check what they are given, each in its own way
            raise EditError(f"{type(config).__name__} does not take {new} at {path}: {error}") from error
    return changed


def _proposals(config: Any, wanted: Sizes, found: Sizes, idle: set[Path]) -> Iterator[Change]:
    """Numbers of a configuration changed in the proportions in which sizes differ; where nothing is said, the sizes."""
    factors = _factors(wanted, found)
    for path, old in entries(config):
        news = {a for a, _ in factors} if old is None else {old * a // b for a, b in factors if old * a % b == 0}
        yield from ((path, new) for new in sorted(news - {old}) if path not in idle)


def _misfits(wanted: Sizes, found: Sizes) -> int:
    """How many sizes differ; of a tensor that only one of them has, all."""
    total = 0
    for name in wanted.keys() | found.keys():
        one, other = wanted.get(name), found.get(name)
        if one is None or other is None or len(one) != len(other):
            total += 1 + len(one or other or ())
        else:
            total += sum(a != b for a, b in zip(one, other, strict=True))
    return total


def _factors(wanted: Sizes, found: Sizes) -> set[tuple[int, int]]:
    """By which proportions sizes differ, and numbers of blocks."""
    both = [(wanted[name], found[name]) for name in wanted.keys() & found.keys()]
    pairs = itertools.chain.from_iterable(zip(*sizes, strict=False) for sizes in both)
    sizes = {(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)}
    blocks, others = _blocks(wanted), _blocks(found)
    counts = {(blocks[path], others[path]) for path in blocks.keys() & others.keys()}
    return {(a, b) for a, b in sizes | counts if a != b and a and b}


def _blocks(sizes: Sizes) -> Counter[str]:
    """By the path of a module, how many of its children have a number for a name: a stage has blocks of its own."""
    paths = {tuple(parts[: n + 1]) for parts in (name.split(".") for name in sizes) for n in range(len(parts))}
    return Counter(".".join(path[:-1]) for path in paths if path[-1].isdigit())


def entries(config: Any) -> Iterator[tuple[Path, int | None]]:
    """All whole numbers above 0 and all entries that say nothing, in a configuration and in the configurations and
    lists in it, by path."""
    for path, value in values(config):
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            yield path, value


def values(config: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that a configuration says, itself and in the configurations and lists in it, which come before what is in
    them, by path."""
    inside = enumerate(config) if isinstance(config, (list, tuple)) else vars(config).items()
    for name, value in list(inside):
        path = (*prefix, name)
        yield path, value
        if isinstance(value, (list, tuple)) or _related(value, config):
            yield from values(value, path)


def _related(value: Any, config: Any) -> bool:
    """Whether two objects are of one family of classes: a configuration inside of another one."""
    return bool(set(type(value).__mro__) & set(type(config).__mro__) - {object})
