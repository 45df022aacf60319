"""Where a module can be put that keeps the shape of a tensor: every tensor edge between modules that has a slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from meristem.axes.flow import Flow, Invocation, Version
from meristem.depth.container import Container
from meristem.depth.edges import Edge, Side, edge_at, edges_among
from meristem.depth.original import Original
from meristem.depth.rehearsal import proven, rehearse
from meristem.depth.wiring import Apart, wiring
from meristem.edit.joints import Fresh
from meristem.edit.tree import Built, Node, Old, TreeRecord

_AMONG: dict[Side, str] = {
    "after": "the module returns it among other things, so that nothing can follow it there",
    "before": "the module is given it among other things, and not first",
}
"""Why nothing is put at one of several tensors."""


@dataclass(frozen=True)
class Insertion:
    """A place for a module that keeps the shape of a tensor.

    Attributes:
        side, module: after or before which module; "after" is on the way to all readers of its result, "before" on the
            way to this module alone.
        inside: the container of which it becomes a child, beside the module; None: the module gives its place to an
            `nn.Sequential` that holds both.
        edge: the number of the tensor edge; places with the same number are on the same edge.
        shape: of the tensor, on the example.
        features: the dimension of the tensor that layers produce or read; None if there is none or not one alone.
        calls: how often the place is passed in one run of the model.
        alone: whether the new module is called with the tensor alone; otherwise it must pass over other arguments.
        frozen: why nothing can be put there, or None.
        entry: for one of several tensors that a module returns, or is given, its number among them; such are frozen.
    """

    side: Side
    module: str
    inside: str | None
    edge: int
    shape: tuple[int, ...]
    features: int | None
    calls: int
    alone: bool
    frozen: str | None = None
    entry: int | None = None

    @property
    def name(self) -> str:
        """For people, and to find it by."""
        return f"{self.side} {self.module}{'' if self.entry is None else f'[{self.entry}]'}"


def inserting(
    model: nn.Module, containers: Mapping[str, Container], wanted: Sequence[tuple[Insertion, Node]]
) -> TreeRecord:
    """The record that puts a module in each of these places."""
    record = TreeRecord()
    slots: dict[str, dict[Side, list[Node]]] = {}
    inside: dict[str, dict[tuple[str, Side], list[Node]]] = {}
    for place, node in wanted:
        if place.inside is None:
            slots.setdefault(place.module, {"before": [], "after": []})[place.side].append(node)
        else:
            inside.setdefault(place.inside, {}).setdefault((place.module, place.side), []).append(node)
    for path, beside in inside.items():
        container = containers[path]
        children: list[Node] = []
        for position, old in enumerate(container.unchanged):
            child = container.child(position)
            children += [*beside.get((child, "before"), []), old, *beside.get((child, "after"), [])]
        record = record.joined(container.rearranged(model, children))
    for module, around in slots.items():
        chain = [*around["before"], Old(old=module), *around["after"]]
        sequential = Built(build="Sequential", children={str(n): node for n, node in enumerate(chain)})
        record = record.joined(TreeRecord(slots={module: sequential}))
    return record


def find_insertions(
    original: Original, containers: Mapping[str, Container], features: Mapping[Version, int | None]
) -> tuple[Insertion, ...]:
    """Every place, proven by rehearsals or frozen. Of two ways to one place the natural one comes first.

    Args:
        original: the model and its runs.
        containers: by path, the modules whose children may change.
        features: by tensor, the dimension that layers produce or read.
    """
    candidates = list(_candidates(original.flow, containers, features))

    def judge(places: Sequence[Insertion]) -> str | None:
        probe = Built(build="Fresh")
        record = inserting(original.model, containers, [(place, probe) for place in places])
        found = rehearse(original.model, original.examples, record)
        if isinstance(found, str):
            return found
        built = [part for module in found.planting.built for part in module.modules()]
        probes = [found.path(part) for part in built if type(part) is Fresh]
        if any(not found.flows[0].of.get(path) for path in probes):
            return "what is put there is not called"
        for before, now in original.pairs(found):
            passed = sum(len(now.of.get(path, ())) for path in probes)
            if passed != sum(len(before.of.get(place.module, ())) for place in places):
                return "what is put there is called another number of times"
        return original.differs(
            found, original.wirings.__getitem__, lambda now: wiring(now, found.names, Apart(passing=probes))
        )

    reasons: dict[Insertion, str | None] = {}
    for path in dict.fromkeys(place.inside for place in candidates):  # lists that are run through together stay apart
        reasons.update(proven([p for p in candidates if p.frozen is None and p.inside == path], judge))
    return tuple(replace(place, frozen=reasons.get(place, place.frozen)) for place in candidates)


def _candidates(
    flow: Flow, containers: Mapping[str, Container], features: Mapping[Version, int | None]
) -> Iterator[Insertion]:
    edges: dict[object, int] = {}
    for module, calls in flow.of.items():
        if not module:
            continue
        parent = module.rpartition(".")[0]
        for side in ("after", "before"):
            for entry, passed in _passed(flow, calls, side):
                read = all(edge.readers for edge in passed)
                number = edges.setdefault((passed, None if read else module), len(edges))
                shapes = {flow.shape(edge.version) for edge in passed}
                dims = {features.get(edge.version) for edge in passed}
                place = Insertion(
                    side=side,
                    module=module,
                    inside=None,
                    edge=number,
                    shape=flow.shape(passed[0].version),
                    features=dims.pop() if len(dims) == 1 else None,
                    calls=len(calls),
                    alone=all(call.alone for call in calls),
                    frozen=None if len(shapes) == 1 else f"{module} is called with tensors of {len(shapes)} shapes",
                    entry=entry,
                )
                if entry is not None:
                    yield _frozen(place, _AMONG[side])
                    continue
                if parent in containers and all(call.leads for call in calls):
                    yield replace(place, inside=parent)
                yield place if place.alone else _frozen(place, "the module is called with more than one tensor")


def _passed(flow: Flow, calls: Sequence[Invocation], side: Side) -> Iterator[tuple[int | None, tuple[Edge, ...]]]:
    """The tensor edges that a module ends or begins, in all its calls: its result or first argument, then every other
    tensor by its number."""
    found = [edge_at(flow, call, side) for call in calls]
    passed = tuple(edge for edge in found if edge is not None)
    if len(passed) == len(calls):
        yield None, passed
    others = [edges_among(flow, call, side) for call in calls]
    for entry in others[0]:
        if all(entry in edges for edges in others):
            yield entry, tuple(edges[entry] for edges in others)


def _frozen(place: Insertion, reason: str) -> Insertion:
    return place if place.frozen else replace(place, frozen=reason)
