"""What might be a place for a branch, and why not, as far as the graph of the run says."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from torch import nn

from meristem.axes.flow import Invocation, Version
from meristem.axes.map import AxisMap
from meristem.axes.module_path import within
from meristem.axes.recorder import references
from meristem.depth.addition import Addition
from meristem.depth.branch import Join
from meristem.depth.candidates import entries
from meristem.depth.edges import Edge, chains, edge_at
from meristem.depth.lengths import Lengths
from meristem.depth.memory import overwritten
from meristem.depth.original import Original
from meristem.depth.own import own_units
from meristem.depth.rows import calls_of, row_name
from meristem.depth.silence import Obstacle, silenced_by
from meristem.edit.joints import Beside, Concat

JOINT_OF: Mapping[Join, type[nn.Module]] = {"add": Beside, "cat": Concat}
"""What an edit joins branches by."""

NO_MODULE = "no module computes just what lies between"
"""Why there is no place between two tensor edges."""


class Besides:
    """The search for places in one run of a model.

    Args:
        axes: the map of the model.
        original: the model and its runs.
        lengths: gives the lengths of the run's tensors, if it is asked.
    """

    def __init__(self, axes: AxisMap, original: Original, lengths: Callable[[], Lengths]) -> None:
        self.axes = axes
        self.original = original
        self.model = original.model
        self.flow = original.flow
        self._lengths = lengths
        self._names = _names(axes.model)
        self._numbers: dict[Hashable, int] = {}

    def modules(self, join: Join) -> Iterator[Addition]:
        """The places beside every module that computes something."""
        for module in self.flow.of:
            found = self._beside(module, self.flow.of[module], join) if module else None
            if found is not None:
                yield found

    def row(self, children: Sequence[str]) -> Addition | None:
        """The place beside neighbouring children of a container, joined by a sum; None if they compute nothing."""
        found = self._beside(row_name(children), calls_of(self.flow, children), "add", children)
        return None if found is None else replace(found, module="", row=tuple(children))

    def without_module(self) -> Iterator[Addition]:
        """What lies between neighbours of a chain, or between the ends of one, and no module computes."""
        flow = self.flow
        named: dict[Edge, str] = {}
        spans: set[tuple[Edge, Edge]] = set()
        for call in flow.invocations:
            sides = edge_at(flow, call, "before"), edge_at(flow, call, "after")
            for side, edge in zip(("before", "after"), sides, strict=True):
                if edge is not None and edge.readers and call.module:
                    named.setdefault(edge, f"{side} {call.module}")
            if sides[0] is not None and sides[1] is not None:
                spans.add((sides[0], sides[1]))
        for chain in chains(flow, named):
            ends = [(chain[0], chain[-1])] if len(chain) > 2 else []
            for one, two in (*pairwise(chain), *ends):
                if (one, two) not in spans and one.version != two.version:
                    between = self._between("add", [[one.version]], [two.version])
                    yield Addition("add", f"{named[one]} .. {named[two]}", "", between, frozen=NO_MODULE)

    def _beside(
        self, module: str, calls: Sequence[Invocation], join: Join, parts: Sequence[str] = ()
    ) -> Addition | None:
        """The place beside a module, or beside several; none if they compute nothing, or nothing that could be appended
        to."""
        flow, parts = self.flow, parts or (module,)
        given = tuple(flow.entering(call) for call in calls)
        if not all(given) or any(set(flow.leaving(call)) <= set(flow.entering(call)) for call in calls):
            return None
        size = entries(self.model, parts)
        reason = self._made(parts, join) or self._reason(calls)
        left = [flow.version(call.outputs[0], call.last) for call in calls]
        if join == "add":
            between = self._between(join, given, left)
            frozen = reason or self._loud(parts, calls) or self._free(calls)
            return Addition(join, module, module, between, size, frozen=frozen)
        units = own_units(self.axes, flow, self._lengths(), module) if reason is None else None
        if units is None:
            return None
        between = self._between(join, given, left, units.dim)
        return Addition(join, module, module, between, size, units.axis, units.dim, units.frozen)

    def _made(self, parts: Sequence[str], join: Join) -> str | None:
        """Why there is a better place than beside a joint of an earlier edit."""
        if any(type(self.model.get_submodule(part)) is JOINT_OF[join] for part in parts):
            return "an earlier edit has put a branch there; put the next one beside one of its branches"
        return None

    def _reason(self, calls: Sequence[Invocation]) -> str | None:
        """Why nothing can be joined to what a module returns."""
        if not all(call.returns for call in calls):
            return "it returns something else than a tensor"
        if not all(edge_at(self.flow, call, "after") for call in calls):
            return "it returns no floating-point numbers that depend on the model's inputs"
        if any(overwritten(self.flow, call) for call in calls):
            return "it writes to what it is given, so that a branch would be given something else"
        return None

    def _loud(self, parts: Sequence[str], calls: Sequence[Invocation]) -> str | None:
        """Why copies of modules cannot be silent."""
        if not entries(self.model, parts):
            return "it has no parameters"
        for call in calls:
            found = silenced_by(self.flow, self.flow.version(call.outputs[0], call.last))
            if isinstance(found, Obstacle):
                return f"no zeros silence it: {found.reason}"
            for name in found:
                own = next((path for path in parts if within(name, path)), parts[0])
                shared = next((other for other in self._names[name] if not within(other, own)), None)
                if shared is not None:
                    return f"no zeros of its own silence it: {shared} is outside"
        return None

    def _free(self, calls: Sequence[Invocation]) -> str | None:
        """Why a branch beside modules would not be a layer: such as only scale, shift or look up, one of them can do
        what two can, and its gain for each operation would be infinite."""
        calling = {call.site.module for one in calls for call in self.flow.recording.calls[one.first : one.last]}
        if calling.isdisjoint(work.module for work in self.axes.work):
            return "it multiplies no matrices and convolves nothing, so that a branch beside it costs no operations"
        return None

    def _between(
        self, join: Join, given: Sequence[Sequence[Version]], left: Sequence[Version], dim: int | None = None
    ) -> tuple[int, int]:
        """The same numbers for what is the same."""
        start = self._numbers.setdefault(tuple(map(tuple, given)), len(self._numbers))
        ends = join, tuple(self._joined(version, dim) for version in left)
        return start, self._numbers.setdefault(ends, len(self._numbers))

    def _joined(self, version: Version, dim: int | None) -> Version:
        """What a branch is joined to: behind sums, or behind concatenations of units along a dimension."""
        flow = self.flow
        while True:
            readers = flow.readers.get(version, ())
            if len(readers) != 1 or readers[0] == len(flow.recording.calls):
                return version
            call = flow.recording.calls[readers[0]]
            if dim is None:
                on = call.name == "aten.add" and not call.kwargs and len(flow.reads[readers[0]]) == 2
                on = on and flow.recording.shapes[call.outputs[0]] == flow.shape(version)
            else:
                along = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
                once = list(references(call)).count(version.number) == 1
                on = call.name == "aten.cat" and once and (along - dim) % len(flow.shape(version)) == 0
            if not on:
                return version
            version = flow.version(call.outputs[0], readers[0] + 1)


def _names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter, by the first one."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return {names[0]: names for names in found.values()}
