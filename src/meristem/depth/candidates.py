"""What might be a branch: all that is computed between two calls for one operand of a sum or a concatenation alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from torch import nn

from meristem.axes.expression import Concat, Expression, Leaf, Product, leaves
from meristem.axes.flow import Flow, Invocation, Version
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.module_path import within
from meristem.axes.space import SINGLE
from meristem.depth.branch import Branch
from meristem.depth.dominance import Dominance
from meristem.depth.lengths import Lengths
from meristem.depth.silence import factor

NO_UNITS = "its units are not made by layers"
"""Why the length of a tensor is no axis of the map."""


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
        flow, before = self.flow, self.dominators.before
        for end, call in enumerate(flow.recording.calls):
            kind = call.name.removeprefix("aten.")
            operands = [v for v in flow.reads[end] if v in flow.active]
            if end not in before or kind not in ("add", "cat") or len(operands) < 2:
                continue
            for operand in operands:
                if operand.call > before[end] and self._joined(operand, end):
                    branch = self._branch("add" if kind == "add" else "cat", (before[end], end), operand)
                    if branch is not None:
                        yield branch

    def private(self, branch: Branch) -> frozenset[int]:
        """The operator calls that run only for a branch."""
        return self._region(branch.operand, branch.start)

    def _joined(self, operand: Version, end: int) -> bool:
        """Whether this is the first join of a tensor and nothing but joins reads it: no skip connection."""
        flow = self.flow
        call, readers = flow.recording.calls[end], flow.readers[operand]
        if call.name == "aten.add":
            return readers == (end,) and flow.shape(operand) == flow.recording.shapes[call.outputs[0]]
        calls = flow.recording.calls
        return readers[0] == end and all(r < len(calls) and calls[r].name == "aten.cat" for r in readers)

    def _branch(self, join: Literal["add", "cat"], span: tuple[int, int], operand: Version) -> Branch | None:
        """The branch that ends in one operand of a join; None if no parameters are in it."""
        flow, model = self.flow, self.model
        private = self._region(operand, span[0])
        exit_call = self._exit(private, operand, join)
        inside = [call for call in flow.invocations if _runs_only(flow, call, private) and call.module]
        outer = [call for call in inside if not any(call is not o and _holds(o, call) for o in inside)]
        paths = tuple(dict.fromkeys(call.module for call in outer))
        size = entries(model, paths)
        if not size:
            return None
        around = flow.recording.calls[span[1]].site.module
        exit_path = exit_call.module if exit_call is not None else None
        others = tuple(
            path
            for path in paths
            if exit_path is None or not (within(path, exit_path) or within(exit_path, path))
            if any(True for _ in model.get_submodule(path).parameters())
        )
        nones = exit_call.nones if exit_call is not None else 0
        name = exit_path if exit_path is not None else f"{around or 'the model'} ({operand.call})"
        units: tuple[str, ...] = ()
        frozen, dim = None, None
        if exit_call is None:
            frozen = f"no module returns what the branch {'adds' if join == 'add' else 'appends'}"
        elif join == "cat":
            found = self._units(operand, span[1], paths)
            frozen, units = (found, ()) if isinstance(found, str) else (None, found)
            dim = self._dim(flow.version(exit_call.outputs[0], exit_call.last), units)
        return Branch(name, join, *span, operand, exit_path, others, nones, size, units, dim, frozen)

    def _region(self, operand: Version, start: int) -> frozenset[int]:
        return frozenset(call for call in self.dominators.within(operand.call) if call > start)

    def _exit(self, private: frozenset[int], operand: Version, join: str) -> Invocation | None:
        """The outermost module that returns what is joined, apart from operators after it: such as keep zeros in a sum,
        any that read nothing else in a concatenation."""
        flow = self.flow
        while True:
            for call in flow.invocations:  # outer ones begin first
                ends = call.module and call.inputs and (call.returns or call.nones)
                if ends and flow.version(call.outputs[0], call.last) == operand and _runs_only(flow, call, private):
                    return call
            step = factor if join == "add" else _lone
            before = step(flow, operand) if operand.call in private else None
            if before is None or len(flow.readers.get(before, ())) != 1:
                return None
            operand = before

    def _units(self, operand: Version, end: int, paths: Sequence[str]) -> tuple[str, ...] | str:
        """The names of the axes that make up the length of an operand of a concatenation, one of each product, if these
        modules alone produce them; else the reason why not."""
        lengths, call = self._lengths(), self.flow.recording.calls[end]
        dims = lengths.of(operand)
        place = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
        if not dims:
            return "nothing is known of what it appends"
        whole = dims[place]
        if whole is None:
            return SINGLE if self.flow.shape(operand)[place] == 1 else NO_UNITS
        found: dict[str, None] = {}
        for part in whole.parts if isinstance(whole, Concat) else (whole,):
            reasons = {axis: foreign(lengths.axes, axis, paths) for axis in _factors(lengths.axes, part)}
            own = next((axis for axis, reason in reasons.items() if reason is None), None)
            if own is None:
                return "; ".join(dict.fromkeys(filter(None, reasons.values()))) or NO_UNITS
            found[own.name] = None
        return tuple(found)

    def _dim(self, returned: Version, units: Iterable[str]) -> int | None:
        """The dimension of the units in what a module returns, counted from the end where it is the last one."""
        axes = self._lengths().axes
        wanted = {axes[name].index for name in units}
        dims = self._lengths().of(returned)
        own = [d for d, dim in enumerate(dims) if dim is not None and not wanted.isdisjoint(leaves(dim))]
        return None if len(own) != 1 else -1 if own[0] == len(dims) - 1 else own[0]


def entries(model: nn.Module, paths: Iterable[str]) -> int:
    """Number of entries of the parameters of modules."""
    tensors = {id(p): p.numel() for path in paths for p in model.get_submodule(path).parameters()}
    return sum(tensors.values())


def foreign(axes: AxisMap, axis: Axis, paths: Sequence[str]) -> str | None:
    """Why the units of an axis are not those of some modules alone, or None."""
    if axis.frozen is not None:
        return f"{axis.name}: {axis.frozen}"
    made = [place.layout for place in axes.places[axis.index] if Role.PRODUCES in place.roles]
    for layout in made:
        for name in layout.names:
            if not any(within(name, path) for path in paths):
                return f"its units are also those of {name.rpartition('.')[0] or name}"
    return None if made else NO_UNITS


def _factors(axes: AxisMap, part: Expression) -> tuple[Axis, ...]:
    """The axes of a product, or the axis itself."""
    factors = part.factors if isinstance(part, Product) else (part,)
    return tuple(axes.axes[factor.axis] for factor in factors if isinstance(factor, Leaf))


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
