"""Rehearsing: run the model as if it had been edited, under stand-ins, and compare every call with the prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from types import CodeType, TracebackType
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

from meristem.axes.attributes import written
from meristem.axes.expression import Expression, size_of
from meristem.axes.guards import Guard
from meristem.axes.map import AttributeBinding
from meristem.axes.recorder import Call, Recorder, Recording, Ref, Site, references, tensors_in, user_frames
from meristem.axes.running import run
from meristem.axes.scalars import ArgumentPath, Scalar, factor, pairs
from meristem.axes.solution import Literal, Solution, Value
from meristem.axes.types import autocast
from meristem.axes.watch import Comparisons, Watch


@dataclass(frozen=True)
class Mismatch:
    """A call that did not go as predicted.

    Attributes:
        recording, call: which one, by numbers.
        site: where the model's code made it.
        literal: the number that differed, or None if the operator failed or gave another shape.
        actual: the number that the code passed.
    """

    recording: int
    call: int
    site: Site
    literal: Literal | None
    actual: int | None


@dataclass(frozen=True)
class Divergence:
    """The model's Python code raised or took another way.

    Attributes:
        recording, call: how far it had come.
        module: the innermost module of the traceback.
        where: `file:line` of the innermost frame of the model's code.
        code: the functions between that module's and the innermost one.
        message: the error.
    """

    recording: int
    call: int
    module: nn.Module | None
    where: str
    code: tuple[CodeType, ...]
    message: str


@dataclass(frozen=True)
class Outcome:
    """What a rehearsal found; nothing if everything went as predicted.

    Attributes:
        mismatches: the calls that did not go as predicted.
        scalars: numbers that are not lengths and changed.
        divergence: where the model's code raised, or None.
        cut: whether it was ended early, because the same line of code went wrong in a second module.
        comparisons: those of lengths that the code made, as they came out, if it was watched; over the space's axes.
    """

    mismatches: tuple[Mismatch, ...]
    scalars: tuple[Scalar, ...]
    divergence: Divergence | None
    cut: bool = False
    comparisons: tuple[Guard, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.mismatches and self.divergence is None


class _OtherWayError(Exception):
    """Another operator was called than recorded."""


class _EnoughError(Exception):
    """A brief rehearsal has seen what it came for."""


@dataclass(frozen=True)
class _Expected:
    """What a rehearsal is compared with, and how.

    Attributes:
        recording, literals, values: what was recorded, the lengths among the numbers by call, and the tensors.
        length: the new size of a length.
        number: which recording it is.
        brief, lenient, comparisons: as `rehearse` was told.
    """

    recording: Recording
    literals: Mapping[int, list[Literal]]
    values: Mapping[int, Value]
    length: Callable[[Expression], int]
    number: int
    brief: bool
    lenient: bool
    comparisons: Comparisons | None


class _Rehearsal(Recorder):
    """Compares calls with a recording; where they differ it notes so and goes on with what was predicted."""

    def __init__(
        self,
        known: Callable[[OpOverload], bool],
        stack: Sequence[str],
        fake: FakeTensorMode | None,
        expected: _Expected,
    ) -> None:
        super().__init__(known, stack, fake)
        self.expected = expected.recording
        self.literals = expected.literals
        self.length = expected.length
        self.values = expected.values
        self.number_of_recording = expected.number
        self.brief = expected.brief
        self.lenient = expected.lenient
        self.comparisons = expected.comparisons
        self.index = 0
        self.mismatches: list[Mismatch] = []
        self._changed: list[tuple[int, ArgumentPath, Any, Any]] = []

    def predicted(self, output: int) -> tuple[int, ...]:
        """The shape that a tensor of the recording will have."""
        return tuple(self.length(dim) for dim in self.values[output].dims)

    def watching(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.comparisons is None else Watch(self.comparisons, self._dims, self._stack)

    def _dims(self, tensor: torch.Tensor) -> tuple[Expression, ...] | None:
        """What is known of a tensor of the recording, if it is as long as predicted."""
        value = self.values.get(self._numbers.get(id(tensor), -1))
        return value.dims if value is not None and tuple(map(self.length, value.dims)) == tensor.shape else None

    def perform(self, func: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
        if self.lenient:
            self._pass_over(func)
        if self.index >= len(self.expected.calls) or self.expected.calls[self.index].operator is not func:
            if self._is_whole_slice(func, args):
                return args[0]
            raise _OtherWayError(f"{func} was called where another operator was recorded")
        index, call = self.index, self.expected.calls[self.index]
        self.index += 1
        as_recorded, result = self._compare(index, call, args, kwargs)
        if not as_recorded:
            result = self._as_predicted(func, call.outputs)
        for tensor, number in zip(tensors_in(result), call.outputs, strict=True):
            self.identify(tensor, number)
        return result

    def finish(self) -> None:
        """The model has been run: nothing may be left of what was recorded."""
        if self.lenient:
            self._pass_over(None)
        if self.index < len(self.expected.calls) and self.expected.calls[self.index].outputs:
            raise _OtherWayError(f"{self.expected.calls[self.index].operator} was recorded and is not called")

    @property
    def last(self) -> str:
        """The place of the recorded call that is due, or else of the last one."""
        calls = self.expected.calls
        return calls[min(self.index, len(calls) - 1)].site.where if calls else ""

    def _pass_over(self, func: OpOverload | None) -> None:
        """Leave out recorded calls that do nothing at these sizes, if another operator is called than the first."""
        calls = self.expected.calls
        while self.index < len(calls) and calls[self.index].operator is not func and self._idle(calls[self.index]):
            self.index += 1

    def _idle(self, call: Call) -> bool:
        """Whether a call only rearranges what a tensor has, all of it, in the same order."""
        source = next(references(call), None)
        if call.name not in _ARRANGING or source is None or source not in self.values:
            return False
        return prod(self.predicted(call.outputs[0])) == prod(self.predicted(source))

    def _compare(self, index: int, call: Call, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Whether a call goes as predicted, and its result; a note is taken where it does not."""
        wrong = self._wrong_literals(index, call, args, kwargs)
        if self.brief and any(map(self._met_elsewhere, wrong)):
            raise _EnoughError
        self.mismatches.extend(wrong)
        if wrong:
            return False, None
        self._compare_scalars(index, call, args, kwargs)
        if self.recording.real and _length_is_data(func=call.operator, args=args):
            return False, None  # other weights may give another length, which says nothing about the edit
        shapes = [self.predicted(output) for output in call.outputs]
        try:
            result = call.operator(*autocast(call.name, args), **kwargs)
            if [tuple(t.shape) for t in tensors_in(result)] == shapes:
                return True, result
        except Exception:  # whatever it is, the edit that it stands for would fail here
            result = None
        self.mismatches.append(Mismatch(self.number_of_recording, index, call.site, None, None))
        return False, None

    def _met_elsewhere(self, mismatch: Mismatch) -> bool:
        """Whether the same argument of the same line of code was wrong in another module."""
        where, module = mismatch.site.where, mismatch.site.module
        path = mismatch.literal.path if mismatch.literal is not None else ()
        return any(
            other.site.where == where and other.site.module != module
            for other in self.mismatches
            if other.literal is not None and other.literal.path == path
        )

    def _is_whole_slice(self, func: OpOverload, args: Any) -> bool:
        """`x[:, :n]` calls no operator as long as n is the whole length; now it is not: n must follow the length."""
        if func is not torch.ops.aten.slice.Tensor or len(args) < 4 or args[2] not in (None, 0):
            return False
        value = self.values.get(self.number(args[0]))
        if value is None:
            return False
        literal = Literal(self.number_of_recording, self.index, ("whole slice",), value.dims[args[1]])
        self.mismatches.append(Mismatch(self.number_of_recording, self.index, self.site(3), literal, int(args[3])))
        return True

    def _wrong_literals(self, index: int, call: Call, args: Any, kwargs: Any) -> list[Mismatch]:
        wrong = []
        for literal in self.literals.get(index, ()):
            actual: Any = args[literal.path[0]] if isinstance(literal.path[0], int) else kwargs[literal.path[0]]
            for step in literal.path[1:]:
                actual = actual[step]
            if actual != self.length(literal.value) and actual != -1:
                wrong.append(Mismatch(self.number_of_recording, index, call.site, literal, int(actual)))
        return wrong

    def _compare_scalars(self, index: int, call: Call, args: Any, kwargs: Any) -> None:
        lengths = {literal.path for literal in self.literals.get(index, ())}
        for path, old, new in pairs(call, args, kwargs):
            if isinstance(old, Ref) and isinstance(new, torch.Tensor):
                before, now = self.expected.contents.get(old.value), self.content(new)
                if before is not None and before is not now:
                    self._changed.append((index, path, before, now))
            elif path not in lengths:
                self._changed.append((index, path, old, new))

    @property
    def scalars(self) -> list[Scalar]:
        """The numbers that changed; to be asked for when the run is over, as it looks into tensors."""
        found = [(index, path, factor(old, new)) for index, path, old, new in self._changed]
        return [Scalar(self.number_of_recording, index, path, ratio) for index, path, ratio in found if ratio != 1]

    def _as_predicted(self, func: OpOverload, outputs: tuple[int, ...]) -> Any:
        made = [torch.zeros(self.predicted(o), dtype=self.expected.dtypes[o]) for o in outputs]
        returns = func._schema.returns
        if len(returns) == 1:
            return made if isinstance(returns[0].type, torch.ListType) else made[0]
        return tuple(made)


_ARRANGING = frozenset(
    f"aten.{name}"
    for name in (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "repeat"),
        *("select", "slice", "repeat_interleave"),
    )
)
"""Operators that leave the order of entries as it is. If there are as many as before, they are all there, once."""


def _length_is_data(func: OpOverload, args: Any) -> bool:
    """Whether the shape of the result depends on values: `nonzero`, `x[mask]`, `unique`, not `x[positions]`."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    return func.overloadpacket is not torch.ops.aten.index or any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


def rehearse(
    model: nn.Module,
    examples: Sequence[tuple[tuple[Any, ...], Mapping[str, Any], bool]],
    solution: Solution,
    bindings: Sequence[AttributeBinding],
    new_sizes: Mapping[int, int],
    known: Callable[[OpOverload], bool],
    *,
    brief: bool = False,
    watched: bool = False,
    lenient: bool = False,
) -> Outcome:
    """Run every example as if axes had the new sizes.

    Args:
        examples: arguments, keyword arguments and mode (True: training) of each recording.
        new_sizes: by representative axis.
        brief: end as soon as a line of code goes wrong in a second module: a model of many equal blocks need not be run
            to its end to learn what is wrong with the first.
        watched: note what the code compares.
        lenient: calls may be missing that do nothing at the new sizes: an expansion of one unit to one, say.
    """
    space = solution.space
    sizes = {**dict(enumerate(space.sizes)), **new_sizes}
    lengths: dict[int, int] = {}
    kept: list[Expression] = []

    def length(expression: Expression) -> int:
        found = lengths.get(id(expression))
        if found is None:
            found = lengths[id(expression)] = size_of(space.resolve(expression), sizes)
            kept.append(expression)
        return found

    comparisons = Comparisons(lambda expression: not space.frozen(expression)) if watched else None
    attributes = [(b.module, b.path, length(b.value)) for b in bindings]
    if comparisons is not None:
        attributes = [(b.module, b.path, comparisons.number(length(b.value), b.value)) for b in bindings]
    mismatches: list[Mismatch] = []
    scalars: list[Scalar] = []
    for number, (args, kwargs, training) in enumerate(examples):
        values, recording = solution.values[number], solution.recordings[number]
        literals: dict[int, list[Literal]] = {}
        for literal in solution.literals:
            if literal.recording == number:
                literals.setdefault(literal.call, []).append(literal)

        def new_shape(name: str) -> tuple[int, ...]:
            return tuple(length(dim) for dim in solution.layouts[name])

        rehearsal: _Rehearsal | None = None
        expected = _Expected(recording, literals, values, length, number, brief, lenient, comparisons)

        def make(stack: list[str], fake: FakeTensorMode | None) -> _Rehearsal:
            nonlocal rehearsal
            rehearsal = _Rehearsal(known, stack, fake, expected)  # noqa: B023 - called below
            return rehearsal

        try:
            with written(model, attributes):
                how = {"real": recording.real, "graph": recording.graph, "training": training}
                run(model, args, kwargs, make, **how, new_shape=new_shape)
            assert rehearsal is not None
            rehearsal.finish()
        except _EnoughError:
            assert rehearsal is not None
            return Outcome((*mismatches, *rehearsal.mismatches), (*scalars, *rehearsal.scalars), None, cut=True)
        except Exception as error:  # the model's own code raised: noted, judged by the caller
            if rehearsal is None:  # an attribute took no other number, say
                return Outcome(tuple(mismatches), tuple(scalars), _divergence(number, 0, "", model, error))
            divergence = _divergence(number, rehearsal.index, rehearsal.last, model, error)
            return Outcome((*mismatches, *rehearsal.mismatches), (*scalars, *rehearsal.scalars), divergence)
        assert rehearsal is not None
        mismatches.extend(rehearsal.mismatches)
        scalars.extend(rehearsal.scalars)
    found = () if comparisons is None else tuple(comparisons.found)
    return Outcome(tuple(mismatches), tuple(scalars), None, comparisons=found)


def _divergence(number: int, call: int, last: str, model: nn.Module, error: BaseException) -> Divergence:
    frames: list[tuple[Any, int]] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    own = __file__.rpartition("/")[0]
    frames = [(frame, line) for frame, line in frames if not frame.f_code.co_filename.startswith(own)]
    members = {id(module) for module in model.modules()}
    module, code = None, []
    for frame, _line in frames:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, nn.Module) and id(candidate) in members:
            if candidate is not module:
                code = []
            module = candidate
        code.append(frame.f_code)
    where = next((w for frame, _ in reversed(frames) if (w := user_frames(frame)[0])), "") or last
    return Divergence(number, call, module, where, tuple(code), f"{type(error).__name__}: {error}")


__all__ = ["Divergence", "Mismatch", "Outcome", "rehearse"]
