"""Which attributes hold the number of a container's children, on evidence: what the code needs, or what it is built by.

Two kinds of evidence. The model does not run, or does not call a further child, unless the attribute is changed too. Or
the model holds a configuration object from which its class builds it: then a model built from a changed configuration
has that many children (`Builds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from meristem.axes.flow import Flow
from meristem.axes.map import Example
from meristem.depth.built_by import Builds
from meristem.depth.container import Container, attributes_of_length
from meristem.depth.rehearsal import rehearse
from meristem.depth.removals import keeps_shape
from meristem.depth.wiring import Apart, wiring
from meristem.edit.tree import Built, Copied, Node


def with_counts(
    model: nn.Module, examples: Sequence[Example], flow: Flow, container: Container, builds: Builds
) -> Container:
    """A container with the attributes and lists that follow the number of its children, on either evidence."""
    needed = _needed(model, examples, flow, container)
    followed = builds.followed(container)
    return replace(
        followed,
        counts=tuple(dict.fromkeys((*needed.counts, *followed.counts))),
        lists=tuple(dict.fromkeys((*needed.lists, *followed.lists))),
    )


def _needed(model: nn.Module, examples: Sequence[Example], flow: Flow, container: Container) -> Container:
    """What has to change so that a further child is called and the rest of the model runs as before: all that might, of
    which is taken back what need not; or, where some of it must not change, a single number. Numbers in lists are often
    something else, sizes of a kernel say."""
    numbers, in_lists, lists = attributes_of_length(model, container)
    offers = [replace(container, counts=numbers, lists=lists)] if numbers or lists else []
    offers += [replace(container, counts=(held,)) for held in (*numbers, *in_lists)]
    if not offers or _calls_another(model, examples, flow, container):
        return container
    found = next((offer for offer in offers if _calls_another(model, examples, flow, offer)), container)
    for held in (*found.counts, *found.lists):
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
            now = found.flows[0]
            if now.of.get(path) and wiring(now, found.names, Apart(passing={path})) == wiring(flow):
                return True
    return False
