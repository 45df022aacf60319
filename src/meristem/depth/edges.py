"""Tensor edges between modules, and the chains of those that have to be passed one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from meristem.axes.flow import Flow, Invocation, Version
from meristem.depth.dominance import INPUT, Dominance, dominators

Side = Literal["after", "before"]


@dataclass(frozen=True)
class Edge:
    """A tensor on the way to some of its readers.

    Attributes:
        version: the tensor.
        readers: the operator calls; their number stands for the model's results.
    """

    version: Version
    readers: frozenset[int]


def edge_at(flow: Flow, call: Invocation, side: Side) -> Edge | None:
    """What a module returns, on the way to all that reads it, or what it is given, on the way to this module alone.

    None if that is no tensor of floating-point numbers that depend on the model's inputs.
    """
    leads = call.returns if side == "after" else call.leads
    return _edge(flow, call, side, 0) if leads else None


def edges_among(flow: Flow, call: Invocation, side: Side) -> dict[int, Edge]:
    """The same for every tensor that a module returns or is given, wherever it stands in lists, tuples and arguments,
    by its number among them; without that which `edge_at` finds."""
    tensors = call.outputs if side == "after" else call.inputs
    found = {number: _edge(flow, call, side, number) for number in range(len(tensors))}
    known = edge_at(flow, call, side)
    return {number: edge for number, edge in found.items() if edge is not None and edge != known}


def _edge(flow: Flow, call: Invocation, side: Side, number: int) -> Edge | None:
    if side == "after":
        found = flow.version(call.outputs[number], call.last)
    else:
        found = flow.version(call.inputs[number], call.first)
    if found not in flow.active or not flow.recording.dtypes[found.number].is_floating_point:
        return None
    readers = flow.readers.get(found, ())
    inside = range(call.first, call.last)
    return Edge(found, frozenset(r for r in readers if side == "after" or r in inside))


def chains(flow: Flow, edges: Iterable[Edge]) -> tuple[tuple[Edge, ...], ...]:
    """The chains of tensor edges.

    One edge stands before another in a chain if every path from the model's inputs to the second goes through the first
    (dominance) and every path from the first to the results goes through the second (postdominance): what lies between
    has one entry and one exit. Two edges that each stand so to a third one stand so to each other (derived). So each
    edge on a path from inputs to results is in one chain alone, and the pairs with one entry and one exit are the pairs
    of each chain: as many as there are, their chains take no more room than the edges. They are the classes of Johnson,
    Pearson, Pingali, "The program structure tree", PLDI 1994, for a graph without cycles. Of two neighbours each is the
    nearest edge for the other in its tree of dominators.

    Args:
        flow: the run.
        edges: as `edge_at` finds them; those that nobody reads are in no chain.
    """
    nodes, graph = _graph(flow, edges)
    trees = dominators(graph, len(nodes))
    places = {number: node for number, node in enumerate(nodes) if isinstance(node, Edge)}
    following = dict(_links(trees, places))
    first = [place for place in places if place not in following.values() and place in trees.after]
    return tuple(tuple(places[place] for place in _run(following, start)) for start in first)


def _links(trees: Dominance, places: Mapping[int, Edge]) -> Iterator[tuple[int, int]]:
    """Neighbours in the chains."""

    def nearest(node: int, tree: Mapping[int, int]) -> int | None:
        found = tree.get(node)
        while found is not None and found not in places:
            found = tree.get(found)
        return found

    for place in places:
        after = nearest(place, trees.after)
        if after is not None and nearest(after, trees.before) == place:
            yield place, after


def _run(following: Mapping[int, int], start: int) -> Iterator[int]:
    place: int | None = start
    while place is not None:
        yield place
        place = following.get(place)


def _graph(flow: Flow, edges: Iterable[Edge]) -> tuple[list[object], dict[int, set[int]]]:
    """Operator calls, tensors and tensor edges, in an order in which they could be computed, and which follow which.

    A tensor leads to its largest edges, these to smaller ones within, and the smallest ones to the calls that read.
    """
    within: dict[Version, list[Edge]] = {}
    for edge in sorted(dict.fromkeys(edges), key=lambda edge: -len(edge.readers)):
        within.setdefault(edge.version, []).append(edge)
    end = len(flow.recording.calls)
    nodes: list[object] = []
    for call in range(-1, end):
        written = flow.writes[call] if call >= 0 else sorted(flow.active, key=lambda v: v.number)
        nodes += [call] if call >= 0 else []
        for version in written:
            if version in flow.active and version.call == call:
                nodes += [version, *within.get(version, ())]
    numbers = {node: number for number, node in enumerate(nodes)}
    numbers[end] = len(nodes)
    graph: dict[int, set[int]] = {}
    for version in flow.active:
        source = INPUT if version.call < 0 else numbers[version.call]
        graph.setdefault(source, set()).add(numbers[version])
        for reader in flow.readers.get(version, ()):
            path = [version, *(edge for edge in within.get(version, ()) if reader in edge.readers), reader]
            for one, two in pairwise(path):
                graph.setdefault(numbers[one], set()).add(numbers[two])
    return nodes, graph
