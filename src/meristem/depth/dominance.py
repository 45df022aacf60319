"""Dominance in the graph of one run: through which operator calls every path from the inputs, or to the results, goes.

Calls are numbered in the order in which they ran, so every edge leads to a higher number and one pass suffices
(Cooper, Harvey, Kennedy, "A simple, fast dominance algorithm", 2001, without its iteration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meristem.axes.flow import Flow

INPUT = -1
"""Stands for the model's inputs; the number of calls stands for its results."""


@dataclass(frozen=True)
class Dominance:
    """Immediate dominators and postdominators of every operator call that lies on a path from inputs to results.

    Attributes:
        before: by call, the last call through which every path from the inputs to it goes (`INPUT` if none).
        after: by call, the first call through which every path from it to the results goes.
    """

    before: Mapping[int, int]
    after: Mapping[int, int]

    def postdominates(self, late: int, early: int) -> bool:
        """Whether every path from `early` to the results goes through `late`."""
        while early in self.after and early < late:
            early = self.after[early]
        return early == late

    def within(self, last: int) -> frozenset[int]:
        """The calls all of whose results are needed for one call alone: itself and what it postdominates."""
        return frozenset(call for call in self.after if self.postdominates(last, call))


def dominance(flow: Flow) -> Dominance:
    """The dominance of a run, over the tensors that depend on the inputs."""
    edges: dict[int, set[int]] = {}
    for reader, read in enumerate([*flow.reads, flow.results]):
        for version in read:
            if version in flow.active:
                edges.setdefault(version.call, set()).add(reader)
    return dominators(edges, len(flow.recording.calls))


def dominators(edges: Mapping[int, set[int]], end: int) -> Dominance:
    """The dominance of a graph whose edges lead to higher numbers, from `INPUT` to `end`."""
    alive = _reaching(edges, end)
    nodes = sorted(call for call in {*edges, end} & alive)
    successors = {call: tuple(sorted(edges.get(call, set()) & alive)) for call in nodes}
    predecessors: dict[int, list[int]] = {}
    for call, following in successors.items():
        for reader in following:
            predecessors.setdefault(reader, []).append(call)
    before = _immediate(nodes, predecessors, INPUT)
    mirrored = {-call: [-reader for reader in following] for call, following in successors.items()}
    after = {-call: -found for call, found in _immediate([-call for call in reversed(nodes)], mirrored, -end).items()}
    return Dominance(before, after)


def _reaching(edges: Mapping[int, Iterable[int]], end: int) -> set[int]:
    """The calls from which the results can be reached."""
    found = {end}
    for call in sorted(edges, reverse=True):
        if not found.isdisjoint(edges[call]):
            found.add(call)
    return found


def _immediate(order: Sequence[int], predecessors: Mapping[int, Sequence[int]], root: int) -> dict[int, int]:
    """The immediate dominator of every node but the root, in an order in which predecessors come first."""
    found: dict[int, int] = {}
    for node in order:
        known = [p for p in predecessors.get(node, ()) if p == root or p in found]
        if node == root or not known:
            continue
        common = known[0]
        for other in known[1:]:
            while common != other:  # both climb; numbers fall towards the root
                if common > other:
                    common = found[common]
                else:
                    other = found[other]
        found[node] = common
    return found
