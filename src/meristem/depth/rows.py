"""Rows: neighbouring children of a container that can be held together, so that a branch can stand beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from meristem.axes.flow import Flow, Invocation
from meristem.depth.container import Container
from meristem.depth.original import Original
from meristem.depth.rehearsal import proven, rehearse
from meristem.depth.runs import follows
from meristem.depth.wiring import wiring
from meristem.edit.tree import Built, Node, Old, TreeRecord


@dataclass(frozen=True)
class Row:
    """Children of a container that are called one after the other.

    Beside any two or more of them that are neighbours a branch may come, joined by a sum: `AddBranch(places,
    "stage.1..2")`. (Beside one of them, or all that a container calls, it comes as beside any other module.)

    Attributes:
        container: the path of the container.
        children: their paths.
        frozen: why no branch can come beside several of them, or None.
    """

    container: str
    children: tuple[str, ...]
    frozen: str | None = None

    @property
    def name(self) -> str:
        """The path of the first child to the name of the last."""
        return row_name(self.children)

    def named(self, name: str) -> tuple[str, ...]:
        """The neighbours of that name among these children; none if there are none."""
        for first in range(len(self.children)):
            for last in range(first + 2, len(self.children) + 1):
                if row_name(self.children[first:last]) == name:
                    return self.children[first:last]
        return ()


def row_name(children: Sequence[str]) -> str:
    """The path of the first module to the name of the last, for people."""
    return f"{children[0]}..{children[-1].rpartition('.')[2]}"


def calls_of(flow: Flow, children: Sequence[str]) -> tuple[Invocation, ...]:
    """The calls of modules that are called one after the other, as if they were one module."""
    ends = zip(flow.of[children[0]], flow.of[children[-1]], strict=True)
    return tuple(
        Invocation(one.module, one.first, two.last, one.inputs, two.outputs, one.alone, one.leads, two.returns)
        for one, two in ends
    )


def held(model: nn.Module, container: Container, stretches: Mapping[tuple[str, ...], Node]) -> TreeRecord:
    """The record that puts a node in the place of each of some stretches of a container's children."""
    children: list[Node] = []
    inside = {path: stretch for stretch in stretches for path in stretch}
    for position, old in enumerate(container.unchanged):
        path = container.child(position)
        if path not in inside:
            children.append(old)
        elif path == inside[path][0]:
            children.append(stretches[inside[path]])
    return container.rearranged(model, children)


def stretch(children: Mapping[str, Node]) -> Built:
    """A module that holds some children of a container, given by their paths."""
    return Built(build="Stretch", children={path.rpartition(".")[2]: node for path, node in children.items()})


def find_rows(original: Original, containers: Mapping[str, Container]) -> tuple[Row, ...]:
    """Every row, as long as it can be. That neighbours can be held together is proven by rehearsals, pair by pair."""
    return tuple(row for container in containers.values() for row in _rows(original, container))


def _rows(original: Original, container: Container) -> Iterator[Row]:
    model, flow = original.model, original.flow
    children = [container.child(position) for position in range(len(container.names))]
    if len(children) == 2 and container.path and container.path in flow.of:
        return  # beside both is beside the container

    def judge(first: Sequence[int]) -> str | None:
        pairs = [(children[number], children[number + 1]) for number in first]
        together: dict[tuple[str, ...], Node] = {
            pair: stretch({path: Old(old=path) for path in pair}) for pair in pairs
        }
        found = rehearse(model, original.examples, held(model, container, together))
        if isinstance(found, str):
            return found
        return original.differs(found, original.wirings.__getitem__, lambda now: wiring(now, found.names))

    links = {n: _reason(flow, container, *pair) for n, pair in enumerate(pairwise(children)) if _linked(flow, *pair)}
    for parity in (0, 1):
        links |= proven([n for n, reason in links.items() if reason is None and n % 2 == parity], judge)
    start = None
    for number, reason in links.items():
        start = number if start is None else start
        if links.get(number + 1, "") != reason:
            yield Row(container.path, tuple(children[start : number + 2]), reason)
            start = None


def _linked(flow: Flow, one: str, two: str) -> bool:
    """Whether the second module is always given what the first returns."""
    calls = [len(flow.of.get(path, ())) for path in (one, two)]
    return calls[0] == calls[1] > 0 and follows(flow, one, two)


def _reason(flow: Flow, container: Container, one: str, two: str) -> str | None:
    """Why neighbours cannot be held together, as far as the run says."""
    if container.positions or container.lists:
        return "they know their positions, or are described one by one elsewhere"
    if not all(call.alone for path in (one, two) for call in flow.of[path]):
        return "they are called with more than one tensor"
    if not all(call.returns for call in flow.of[one]):
        return "they return something else than a tensor"
    return None
