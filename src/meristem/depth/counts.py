"""Which attributes hold the number of a container's children, on evidence: what the code needs, or what it is built by.

Two kinds of evidence. The model does not run, or does not call a further child, unless the attribute is changed too. Or
the model holds a configuration object from which its class builds it: then a model built from a changed configuration
has that many children.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from meristem.axes.attributes import read, write
from meristem.axes.flow import Flow
from meristem.axes.map import Example
from meristem.depth.container import Container, Held, attributes_of_length
from meristem.depth.rehearsal import rehearse, skeleton
from meristem.depth.removals import keeps_shape
from meristem.edit.config import built_from
from meristem.edit.tree import Built, Copied, Node
from meristem.errors import EditError


def with_counts(model: nn.Module, examples: Sequence[Example], flow: Flow, container: Container) -> Container:
    """A container with the attributes and lists that follow the number of its children."""
    counts, lists = attributes_of_length(model, container)
    if not counts and not lists:
        return container
    needed = _needed(model, examples, flow, container, counts, lists)
    built_by = tuple(_built_by(model, container, counts, lists))
    kept = dict.fromkeys((*needed.counts, *(held for held in built_by if held in counts)))
    kept_lists = dict.fromkeys((*needed.lists, *(held for held in built_by if held in lists)))
    return replace(container, counts=tuple(kept), lists=tuple(kept_lists))


def _needed(
    model: nn.Module,
    examples: Sequence[Example],
    flow: Flow,
    container: Container,
    counts: Sequence[Held],
    lists: Sequence[Held],
) -> Container:
    """What has to change so that a further child is called and the rest of the model runs as before."""
    if _calls_another(model, examples, flow, container):
        return container
    found = replace(container, counts=tuple(counts), lists=tuple(lists))
    if not _calls_another(model, examples, flow, found):
        return container
    for held in (*counts, *lists):
        less = replace(
            found,
            counts=tuple(h for h in found.counts if h != held),
            lists=tuple(h for h in found.lists if h != held),
        )
        found = less if _calls_another(model, examples, flow, less) else found
    return found


def _calls_another(model: nn.Module, examples: Sequence[Example], flow: Flow, container: Container) -> bool:
    """Whether a further child is called and nothing else changes: the identity at the end, or a copy of the last child
    that keeps the shape of a tensor."""
    probes: list[tuple[int, Node]] = [(len(container.names), Built(build="Chain"))]
    for position in reversed(range(len(container.names))):
        calls = flow.of.get(container.child(position), ())
        if calls and all(keeps_shape(flow, call) for call in calls):
            probes.append((position + 1, Copied(copied=container.child(position))))
            break
    for position, probe in probes:
        children = container.unchanged
        found = rehearse(
            model, examples, container.rearranged(model, [*children[:position], probe, *children[position:]])
        )
        if not isinstance(found, str):
            path = found.path(found.planting.made[id(probe)])
            if found.flows[0].of.get(path) and skeleton(found.flows[0], {path}) == skeleton(flow):
                return True
    return False


def _built_by(model: nn.Module, container: Container, counts: Sequence[Held], lists: Sequence[Held]) -> Iterator[Held]:
    """The entries of a configuration that say how many children the model is built with."""
    for name, settings in _configurations(model):
        own = [held for held in counts if held.module == "" and held.path[0] == name]
        entries = [held for held in lists if held.module == "" and held.path[0] == name]
        length = len(container.names)
        if not own or _children(model, settings, container.path) != length:
            continue
        for held in own:
            for longer in ([], entries):
                changed = copy.deepcopy(settings)
                write(changed, held.path[1:], length + 1)
                for other in longer:
                    values = read(changed, other.path[1:])
                    write(changed, other.path[1:], [*values, values[-1]])
                if _children(model, changed, container.path) == length + 1:
                    yield from (held, *longer)
                    break


def _configurations(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Plain objects that the model holds and that its class might build it from."""
    for name, value in vars(model).items():
        plain = not isinstance(value, (nn.Module, Tensor, type)) and not callable(value)
        if plain and not name.startswith("_") and hasattr(value, "__dict__"):
            yield name, value


def _children(model: nn.Module, settings: Any, path: str) -> int | None:
    """How many children a container has in a model that is built from a configuration; None if none can be built."""
    try:
        return len(built_from(settings, type(model)).get_submodule(path)._modules)
    except (EditError, AttributeError):  # built from something else, refused, or without that container: no evidence
        return None
