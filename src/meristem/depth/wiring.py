"""What a run computes, and of what: every operator call as a step that says where its operands come from.

Copies are no steps: whether PyTorch makes any depends on strides. They matter where somebody writes in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meristem.axes.flow import Flow, Invocation, Version, changed_by
from meristem.axes.recorder import Call, Ref, refs
from meristem.depth.silence import factor
from meristem.depth.steps import ANY, GONE, LOST, Changed, Constant, Inner, Made, Origin, Source, Step


@dataclass(frozen=True)
class Apart:
    """Modules of which a run is compared without what they do, by their paths.

    Attributes:
        passing: they pass on what they are given, whatever they make of it: all tensors if they return as many as they
            are given, otherwise the first.
        silent: what they return adds nothing to a sum, and is no part of a concatenation.
        whole: each call of them is one step, with what is within.
        chance: whether operators that draw random numbers for one tensor, dropout say, pass it on, too, and what is
            drawn for others is the same.
    """

    passing: Collection[str] = ()
    silent: Collection[str] = ()
    whole: Collection[str] = ()
    chance: bool = False


NOTHING = Apart()


def wiring(
    flow: Flow,
    names: Mapping[str, str] | None = None,
    apart: Apart = NOTHING,
    shape: Callable[[int], tuple[int, ...]] | None = None,
) -> tuple[Step, ...]:
    """What a run computes, step by step; the last step are its results.

    Two runs with equal steps compute the same, and hand the same to the modules that stand apart: an operand is told by
    where it comes from, not by its place in a list.

    Args:
        flow: the run.
        names: the names that parameters and buffers shall have, where they are others.
        apart: modules that are not looked into.
        shape: the shape of every tensor by its number; default: as it was.
    """
    reader = _Reader(flow, names or {}, apart, shape or flow.recording.shapes.__getitem__)
    reader.read(range(len(flow.recording.calls)))
    reader.end(flow.results, flow.form)
    return tuple(reader.steps)


class _Reader:
    """Reads the calls of a run in order, and says of every content of a tensor where it comes from."""

    def __init__(
        self,
        flow: Flow,
        names: Mapping[str, str],
        apart: Apart,
        shape: Callable[[int], tuple[int, ...]],
        known: Mapping[Version, Source] | None = None,
        kind: type[Made] = Made,
    ) -> None:
        self.flow, self.names, self.apart, self.shape, self.kind = flow, names, apart, shape, kind
        self.steps: list[Step] = []
        self.sources: dict[Version, Source] = dict(known or {})
        recording = flow.recording
        self.origins = {number: Origin("input", place) for place, number in reversed([*enumerate(recording.inputs)])}
        self.origins |= {n: Origin("parameter", names.get(name, name)) for name, n in recording.named.items()}

    def read(self, calls: range) -> None:
        """Steps for some calls."""
        apart = {*self.apart.passing, *self.apart.silent, *self.apart.whole}
        position = calls.start
        for call in self.flow.invocations if apart else ():
            if call.module in apart and position <= call.first and call.last <= calls.stop:
                for index in range(position, call.first):
                    self._call(index)
                self._module(call)
                position = call.last
        for index in range(position, calls.stop):
            self._call(index)

    def end(self, results: Sequence[Version], form: object) -> None:
        """The last step."""
        shapes = tuple(self.shape(version.number) for version in results)
        self.steps.append(Step("the result", tuple(map(self.source, results)), form, shapes))

    def source(self, version: Version) -> Source:
        """Where a content of a tensor comes from."""
        if version not in self.sources:
            number, recording = version.number, self.flow.recording
            constant = Constant(recording.contents.get(number), recording.shapes[number])
            self.sources[version] = self.origins.get(number, constant)
        return self.sources[version]

    def _before(self, version: Version, index: int) -> Source | None:
        """Where the content comes from that a tensor had before a call; None if there was no such tensor."""
        before = self.flow.version(version.number, index)
        there = before in self.sources or before.number in self.origins or before.call >= 0
        return self.source(before) if there else None

    def _call(self, index: int) -> None:
        call, flow = self.flow.recording.calls[index], self.flow
        read = [flow.version(ref.value, index) for ref in refs(call)]
        operands = tuple(map(self.source, read))
        stands = self._without_gone(index, call, read, operands) if GONE in operands else None
        draws = self.apart.chance and torch.Tag.nondeterministic_seeded in call.operator.tags
        if (draws and len(operands) == 1) or call.name == "aten.clone":
            stands = operands[0]
        number = len(self.steps)
        if stands is None:
            parts = call.name == "aten.cat"  # of these some may be gone
            kept = tuple(operand for operand in operands if operand != GONE) if parts else operands
            shapes = tuple(map(self.shape, call.outputs))
            plain: Any = ANY
            if not draws and shapes == tuple(map(flow.recording.shapes.__getitem__, call.outputs)):
                plain = _plain((call.args[1:] if parts else call.args, tuple(call.kwargs.items())))
            self.steps.append(Step(call.operator, kept, plain, shapes, where=call.site.where))
        changed, given = changed_by(call), {version.number for version in read}
        for version in flow.writes[index]:
            found = stands
            if version.number not in call.outputs:
                before = self.source(flow.version(version.number, index))
                found = before if stands is not None else Changed(self.kind(number, 0), before)
            elif stands is None and version.number in given and version.number not in changed:
                found = self.source(flow.version(version.number, index))  # it returns its argument
            self.sources[version] = found or self.kind(number, call.outputs.index(version.number))

    def _without_gone(
        self, index: int, call: Call, read: Sequence[Version], operands: Sequence[Source]
    ) -> Source | None:
        """What stands for the result of a call that is given what silent modules return; None if it is a step."""
        left = [operand for operand in operands if operand != GONE]
        active = [source for version, source in zip(read, operands, strict=True) if version in self.flow.active]
        if all(source == GONE for source in active):
            return GONE
        if call.name == "aten.cat":
            return left[0] if len(left) == 1 else None
        if call.name == "aten.add":
            other = next(version for version, source in zip(read, operands, strict=True) if source != GONE)
            plainly = operands[-1] == GONE or not call.kwargs
            return left[0] if plainly and self._like(call.outputs[0], other.number) else None
        zero = factor(self.flow, Version(call.outputs[0], index)) if call.outputs else None
        return GONE if zero is not None and self.source(zero) == GONE else None

    def _like(self, one: int, two: int) -> bool:
        types = self.flow.recording.dtypes
        return types[one] == types[two] and self.shape(one) == self.shape(two)

    def _module(self, call: Invocation) -> None:
        """A module that stands apart."""
        inside = range(call.first, call.last)
        made = dict.fromkeys(version for index in inside for version in self.flow.writes[index])
        returned = [self.flow.version(number, call.last) for number in call.outputs]
        given = [self.source(self.flow.version(number, call.first)) for number in call.inputs]
        if call.module in self.apart.whole:
            self._whole(call, given, returned, made)
            return
        other = GONE if call.module in self.apart.silent else LOST
        for version in made:
            before = self._before(version, call.first)  # what is written into is as if it had not been
            self.sources[version] = other if before is None or version in returned else before
        if call.module in self.apart.passing:
            count = len(returned) if len(returned) == len(given) else 1
            passed = list(zip(returned[:count], given[:count], strict=False))
            self.sources |= {version: source for version, source in reversed(passed) if version in made}

    def _whole(
        self, call: Invocation, given: Sequence[Source], returned: Sequence[Version], made: Collection[Version]
    ) -> None:
        arguments = [self.flow.version(number, call.first) for number in call.inputs]
        known = {v: Origin("argument", str(self.shape(v.number))) for v in arguments}  # one may be given twice
        within = _Reader(self.flow, self.names, NOTHING, self.shape, {**self.sources, **known}, Inner)
        within.read(range(call.first, call.last))
        within.end(returned, None)
        number = len(self.steps)
        shapes = tuple(self.shape(version.number) for version in returned)
        self.steps.append(Step("a module", tuple(given), None, shapes, tuple(within.steps), module=call.module))
        for place, version in enumerate(dict.fromkeys([*returned, *made])):
            if version in made:
                before = None if version in returned else self._before(version, call.first)
                made_here = self.kind(number, place)
                self.sources[version] = made_here if before is None else Changed(made_here, before)


def _plain(item: Any) -> Any:
    """Arguments without tensors, in a form that can be compared."""
    if isinstance(item, Ref):
        return "tensor"
    if isinstance(item, (list, tuple)):
        return tuple(map(_plain, item))
    return item if isinstance(item, (bool, int, float, str, type(None))) else repr(item)
