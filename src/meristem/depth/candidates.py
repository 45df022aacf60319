"""What might be a branch: all that is computed between two calls for one operand of a sum or a concatenation alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from meristem.axes.flow import Flow, Invocation, Version
from meristem.axes.module_path import within
from meristem.depth.branch import Branch, Join, Way
from meristem.depth.dominance import Dominance
from meristem.depth.joined_units import dim_of, units_of
from meristem.depth.lengths import Lengths
from meristem.depth.silence import factor


class Candidates:
    """The search for branches in one run of a model.

    Args:
        model: the model.
        flow: the run.
        dominators: its dominance.
        lengths: gives the lengths of its tensors, if it is asked.
    """

    def __init__(self, model: nn.Module, flow: Flow, dominators: Dominance, lengths: Callable[[], Lengths]) -> None:
        self.model = model
        self.flow = flow
        self.dominators = dominators
        self._lengths = lengths

    def find(self) -> Iterator[Branch]:
        """Every branch with parameters."""
        alone: dict[Way, Branch] = {}
        again: dict[tuple[Join, str], list[Way]] = {}
        for join, way in self._ways():
            private = self.private([way])
            returning = [*self._returning(private, way.operand, join)]
            own = next((call for call in returning if _runs_only(self.flow, call, private)), None)
            branch = self._branch(join, [way], own)
            if branch is not None:
                alone[way] = branch
            for module in dict.fromkeys(call.module for call in returning if own is None):
                again.setdefault((join, module), []).append(way)
        repeated = [*self._repeated(again)]
        known = {way for branch in repeated for way in branch.ways}
        yield from (branch for way, branch in alone.items() if way not in known)
        yield from repeated

    def private(self, ways: Iterable[Way]) -> frozenset[int]:
        """The operator calls that run only for a branch."""
        return frozenset(c for way in ways for c in self.dominators.within(way.operand.call) if c > way.start)

    def _ways(self) -> Iterator[tuple[Join, Way]]:
        """All ways to a sum or to a concatenation of what depends on the inputs."""
        flow, before = self.flow, self.dominators.before
        for end, call in enumerate(flow.recording.calls):
            kind = call.name.removeprefix("aten.")
            operands = [v for v in flow.reads[end] if v in flow.active]
            if end not in before or kind not in ("add", "cat") or len(operands) < 2:
                continue
            for operand in operands:
                if operand.call > before[end] and self._joined(operand, end):
                    yield "add" if kind == "add" else "cat", Way(before[end], end, operand)

    def _repeated(self, again: Mapping[tuple[Join, str], Sequence[Way]]) -> Iterator[Branch]:
        """The branches of modules that are called several times, of several that return the same the outermost one."""
        found: list[str] = []
        for (join, module), ways in again.items():  # outer modules come first
            calls = self.flow.of[module]
            if len(calls) == 1 or any(within(module, outer) for outer in found):
                continue
            branch = self._branch(join, ways, calls[0])
            if branch is not None:
                found.append(module)
                yield branch if len(ways) == len(calls) else replace(branch, frozen=_elsewhere(len(ways), len(calls)))

    def _joined(self, operand: Version, end: int) -> bool:
        """Whether this is the first join of a tensor and nothing but joins reads it: no skip connection."""
        flow = self.flow
        call, readers = flow.recording.calls[end], flow.readers[operand]
        if call.name == "aten.add":
            return readers == (end,) and flow.shape(operand) == flow.recording.shapes[call.outputs[0]]
        calls = flow.recording.calls
        return readers[0] == end and all(r < len(calls) and calls[r].name == "aten.cat" for r in readers)

    def _branch(self, join: Join, ways: Sequence[Way], last: Invocation | None) -> Branch | None:
        """The branch of these ways; None if no parameters are in it.

        Args:
            join: how it is joined.
            ways: one for each call.
            last: a call of the module that returns what is joined.
        """
        flow, model, way = self.flow, self.model, ways[0]
        private = self.private(ways)
        inside = [call for call in flow.invocations if _runs_only(flow, call, private) and call.module]
        outer = [call for call in inside if not any(call is not o and _holds(o, call) for o in inside)]
        paths = dict.fromkeys(call.module for call in outer)
        if last is not None and not any(within(last.module, path) for path in paths):
            paths[last.module] = None
        size = entries(model, paths)
        if not size:
            return None
        exit_path = last.module if last is not None else None
        others = tuple(
            path
            for path in paths
            if exit_path is None or not (within(path, exit_path) or within(exit_path, path))
            if any(True for _ in model.get_submodule(path).parameters())
        )
        around = flow.recording.calls[way.end].site.module
        name = exit_path if exit_path is not None else f"{around or 'the model'} ({way.operand.call})"
        nones = last.nones if last is not None else 0
        units: tuple[str, ...] = ()
        frozen, dim = None, None
        if last is None:
            frozen = f"no module returns what the branch {'adds' if join == 'add' else 'appends'}"
        elif join == "cat":
            found = {units_of(self._lengths(), flow, way.operand, way.end, tuple(paths)) for way in ways}
            first = next(iter(found)) if len(found) == 1 else "it returns other units from call to call"
            frozen, units = (first, ()) if isinstance(first, str) else (None, first)
            dim = dim_of(self._lengths(), flow.version(last.outputs[0], last.last), units)
        return Branch(name, join, tuple(ways), exit_path, others, nones, size, units, dim, frozen)

    def _returning(self, private: frozenset[int], operand: Version, join: Join) -> Iterator[Invocation]:
        """The modules that return what is joined, outer ones first, then those that return it but for operators after
        them: such as keep zeros in a sum, any that read nothing else in a concatenation."""
        flow = self.flow
        while True:
            for call in flow.invocations:  # outer ones begin first
                ends = call.module and call.inputs and (call.returns or call.nones)
                if ends and flow.version(call.outputs[0], call.last) == operand:
                    yield call
            step = factor if join == "add" else _lone
            before = step(flow, operand) if operand.call in private else None
            if before is None or len(flow.readers.get(before, ())) != 1:
                return
            operand = before


def _elsewhere(joined: int, calls: int) -> str:
    """Why a module whose result is not always joined is no branch."""
    return f"it is called {calls} times, and what it returns is joined {joined} time{'s' if joined > 1 else ''} only"


def entries(model: nn.Module, paths: Iterable[str]) -> int:
    """Number of entries of the parameters of modules."""
    tensors = {id(p): p.numel() for path in paths for p in model.get_submodule(path).parameters()}
    return sum(tensors.values())


def _lone(flow: Flow, version: Version) -> Version | None:
    """The only active tensor that the operator reads which computed another one."""
    read = [operand for operand in flow.reads[version.call] if operand in flow.active]
    return read[0] if len(read) == 1 else None


def _runs_only(flow: Flow, call: Invocation, private: frozenset[int]) -> bool:
    """Whether all that a module computes from the inputs, in all its calls, is part of a branch."""
    active = [
        index
        for same in flow.of[call.module]
        for index in range(same.first, same.last)
        if any(version in flow.active for version in flow.writes[index])
    ]
    return bool(active) and private.issuperset(active)


def _holds(outer: Invocation, inner: Invocation) -> bool:
    return within(inner.module, outer.module) and outer.first <= inner.first and inner.last <= outer.last
