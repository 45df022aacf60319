"""Places found by brute force: every edit is really made on a copy of a net, and the copy really run."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .models import Net

REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError)
"""What nets, and torch, raise where modules do not fit: over shapes, arguments, what is unpacked, indices, attributes,
and what a probe is given."""


Result = TypeVar("Result")


def in_each_mode(found: Callable[[Net], set[Result]]) -> Callable[[Net], set[Result]]:
    """What is found in evaluation mode and, of nets that do something else then, in training mode, too."""

    @wraps(found)
    def both(net: Net) -> set[Result]:
        return found(net) & found(replace(net, training=True)) if net.trained else found(net)

    return both


class Passing(nn.Module):
    """Runs a module on copies of what it is given, and gives back what it was given first; beside that, nothing that
    anybody could use."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any, **named: Any) -> Any:
        found = self.module(*(value.clone() if isinstance(value, Tensor) else value for value in given), **named)
        return (given[0], *(None for _ in found[1:])) if isinstance(found, tuple) else given[0]


class Probe(nn.Module):
    """Gives back a copy of its first argument and notes its shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, *others: Any, **more: Any) -> Tensor:
        assert isinstance(x, Tensor)
        assert x.is_floating_point()
        self.shapes.append(tuple(x.shape))
        return x.clone()


def counted(model: nn.Module, x: Tensor, without: nn.Module | None = None) -> tuple[Tensor, Counter[int]]:
    """The result of a run, and how often each module was called, apart from one and what is in it."""
    calls: Counter[int] = Counter()
    skipped = {id(m) for m in without.modules()} if without is not None else set()
    originals = {id(m): m for m in model.modules() if id(m) not in skipped}
    handles = [m.register_forward_hook(lambda m, *_: calls.update([id(m)])) for m in originals.values()]
    try:
        return model(x), calls
    finally:
        for handle in handles:
            handle.remove()


def slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, parent in model.named_modules():
        for name in parent._modules:
            yield f"{path}.{name}" if path else name, parent, name


def container(parent: nn.Module) -> bool:
    return isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or set(parent._modules) == {
        "stage1",
        "stage2",
    }


def put(parent: nn.Module, names: list[str], children: list[nn.Module]) -> None:
    """New children; numbers count, words stay."""
    if isinstance(parent, (nn.Sequential, nn.ModuleList)):
        names = [str(n) for n in range(len(children))]
    elif "stage1" in parent._modules:
        names = [f"stage{n + 1}" for n in range(len(children))]
    parent._modules.clear()
    parent._modules.update(zip(names, children, strict=True))


def adjust(model: nn.Module, parent: nn.Module) -> None:
    """The numbers that the nets keep beside a container."""
    if "count" in vars(model) and parent is model.layers:
        model.count = len(parent._modules)
    if "depth" in vars(model) and parent is model.trunk:
        model.depth = len(parent._modules)


@in_each_mode
def brute_insertions(found: Net) -> set[tuple[str, str, bool]]:
    """(side, module, whether as a child of the container): where the identity can be put and changes nothing."""
    x, expected = found.x(), found.model()(found.x())
    works: set[tuple[str, str, bool]] = set()
    for path, _, _ in slots(found.model()):
        for side in ("before", "after"):
            for inside in (True, False):
                model, probe = found.model(), Probe()
                parent = model.get_submodule(path.rpartition(".")[0])
                name, child = path.rpartition(".")[2], model.get_submodule(path)
                if inside and not container(parent):
                    continue
                if inside:
                    names, children = list(parent._modules), list(parent.children())
                    at = names.index(name) + (side == "after")
                    put(parent, [*names[:at], "new", *names[at:]], [*children[:at], probe, *children[at:]])
                    adjust(model, parent)
                else:
                    replaced(model, child, nn.Sequential(*((child, probe) if side == "after" else (probe, child))))
                _, plain = counted(found.model(), x)
                try:
                    result, calls = counted(model, x)
                except REFUSALS:
                    continue
                called = len(probe.shapes) == calls[id(child)] if id(child) in calls else False
                if called and len(set(probe.shapes)) == 1 and torch.equal(result, expected):
                    works.add((side, path, inside))
                assert sum(plain.values()) > 0
    return works


@in_each_mode
def brute_removals(found: Net) -> set[str]:
    """Modules that keep the shape of their input and without which all other modules run as before; the net computes
    what it computes if they give back what they are given."""
    x, works = found.x(), set()
    for path, _, name in slots(found.model()):
        for inside in (True, False):
            model = found.model()
            child, shapes = model.get_submodule(path), set()

            def note(_m: nn.Module, given: tuple[Any, ...], returned: Any, shapes: set[bool] = shapes) -> None:
                first = returned[0] if isinstance(returned, tuple) else returned
                shapes.add(isinstance(given[0], Tensor) and given[0].shape == first.shape)

            child.register_forward_hook(note)
            _, before = counted(model, x, without=child)
            parent = model.get_submodule(path.rpartition(".")[0])
            if shapes != {True} or (inside and not container(parent)):
                continue
            if inside:
                kept = [key for key in parent._modules if key != name]
                put(parent, kept, [parent._modules[key] for key in kept])
                adjust(model, parent)
            else:
                replaced(model, child, Probe())
            others = {id(m) for m in model.modules()} & set(before)
            try:
                result, after = counted(model, x)
            except REFUSALS:
                continue
            same = {key: before[key] for key in others} == {key: after[key] for key in others}
            if same and others == set(before) and torch.equal(result, _passed(found, [path])):
                works.add(path)
    return works


def _passed(found: Net, paths: Sequence[str]) -> Tensor:
    """What a net computes if some modules give back what they are given."""
    model = found.model()
    for path in paths:
        replaced(model, model.get_submodule(path), Passing(model.get_submodule(path)))
    return model(found.x())


def replaced(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module wherever the model holds another one."""
    for holder in list(model.modules()):
        for key, held in list(holder._modules.items()):
            if held is old and holder is not new:
                holder._modules[key] = new


@in_each_mode
def brute_runs(found: Net) -> set[tuple[str, int, int, int]]:
    """(container, first child, period, number of blocks) of all that can be rearranged: blocks of equal structure, two
    or more, the first child with parameters, each given what the one before returns; the net computes what it computes
    if the first child alone does what all do in that order, each with the further arguments that it was given."""
    works: set[tuple[str, int, int, int]] = set()
    reference = found.model()
    for path, parent in reference.named_modules():
        count = len(parent._modules)
        for first in range(count) if container(parent) else ():
            for period in range(1, count // 2 + 1):
                for blocks in range(2, (count - first) // period + 1):
                    run = first, period, blocks
                    if _repeats(list(parent.children()), *run) and _in_a_row(found, path, *run):
                        works.update({(path, *run)} if all(_runs(found, path, *run, how) for how in _HOWS) else ())
    return works


_HOWS: tuple[Callable[[list[Any]], list[Any]], ...] = (
    lambda blocks: [*blocks, copy.deepcopy(blocks[-1])],
    lambda blocks: blocks[:-1],
    lambda blocks: blocks[::-1],
)


def _repeats(children: list[nn.Module], first: int, period: int, blocks: int) -> bool:
    def looks(module: nn.Module) -> list[tuple[str, type]]:
        return [(name, type(part)) for name, part in module.named_modules()]

    row = [looks(child) for child in children[first : first + period * blocks]]
    parameters = any(True for _ in children[first].parameters())
    return parameters and all(row[number] == row[number % period] for number in range(len(row)))


def _in_a_row(found: Net, path: str, first: int, period: int, blocks: int) -> bool:
    """Whether each child is given what the one before it returns, and blocks keep the shape."""
    model = found.model()
    row = list(model.get_submodule(path).children())[first : first + period * blocks]
    seen: list[tuple[nn.Module, Any, Any]] = []
    for child in row:
        child.register_forward_hook(lambda m, given, back: seen.append((m, given[0], back)))
    model(found.x())
    heads = [back[0] if isinstance(back, tuple) else back for _, _, back in seen]
    if [m for m, _, _ in seen] != row:
        return False
    follows = all(seen[n + 1][1] is heads[n] for n in range(len(seen) - 1))
    return follows and all(seen[n][1].shape == heads[n + period - 1].shape for n in range(0, len(row), period))


def _runs(found: Net, path: str, first: int, period: int, blocks: int, how: Callable[[list[Any]], list[Any]]) -> bool:
    model = found.model()
    _, before = counted(model, found.x())
    parent = model.get_submodule(path)
    children = list(parent.children())
    last = first + period * blocks
    new = how([children[n : n + period] for n in range(first, last, period)])
    row = [child for block in new for child in block]
    names = [*list(parent._modules)[:first], *(f"b{n}" for n in range(len(row))), *list(parent._modules)[last:]]
    put(parent, names, [*children[:first], *row, *children[last:]])
    adjust(model, parent)
    try:
        result, after = counted(model, found.x())
    except REFUSALS:
        return False
    inside = {id(part) for child in children[first:last] for part in child.modules()}
    others = {key: calls for key, calls in before.items() if key not in inside}
    return (
        torch.equal(result, _together(found, path, first, period, last, how))
        and all(after[key] == calls for key, calls in others.items())
        and all(after[id(child)] == 1 for child in row)
    )


class Together(nn.Module):
    """Modules one after the other, with their further arguments."""

    def __init__(self, members: Sequence[tuple[nn.Module, Any, Any]]) -> None:
        super().__init__()
        self.members = members

    def forward(self, x: Tensor, *_others: Any, **_named: Any) -> Any:
        found: Any = x
        for module, others, named in self.members:
            found = module(found[0] if isinstance(found, tuple) else found, *others, **named)
        return found


def _together(
    found: Net, path: str, first: int, period: int, last: int, how: Callable[[list[Any]], list[Any]]
) -> Tensor:
    """What a net computes if a child does what all of a run do, and the others of the run nothing."""
    model = found.model()
    children = list(model.get_submodule(path).children())[first:last]
    further: dict[int, Any] = {}

    def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        further[id(module)] = module, given[1:], named

    handles = [child.register_forward_pre_hook(note, with_kwargs=True) for child in children]
    model(found.x())
    for handle in handles:
        handle.remove()
    members = [further[id(child)] for child in children]
    blocks = how([members[n : n + period] for n in range(0, len(members), period)])
    replaced(model, children[0], Together([member for block in blocks for member in block]))
    for child in children[1:]:
        replaced(model, child, Passing(child))
    return model(found.x())
