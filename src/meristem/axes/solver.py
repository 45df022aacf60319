"""Solving: walk through a recording, let each operator's rule speak, and collect what it says about the axes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch._ops import OpOverload

from meristem.axes.expression import ONE, Expression
from meristem.axes.map import Coupling, Role
from meristem.axes.recorder import Call, Recording, Ref, references
from meristem.axes.space import Space

Origin: TypeAlias = "tuple[str, int]"
"""A dimension of a parameter or buffer: (canonical name, dimension)."""


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of one tensor of the recording.

    Attributes:
        dims: its dimensions over the space's axes.
        static: whether it is computed from parameters, buffers and constants alone (a weight, say).
        constant: whether it is computed from buffers and constants alone.
        origins: for a static value, the dimensions of parameters and buffers that each dimension comes from.
        keeps_zero: for a static value, whether zero slices of its parameters give zero slices of it.
        nonlinear: for a static value, the lengths along which it is not linear in its parameters slice by slice.
        normalized: for a static value, the lengths over which it was divided by a norm.
        directions: those of the origins that were divided by the norm of their own slices: zeros there are 0 / 0.
    """

    dims: tuple[Expression, ...]
    static: bool = False
    constant: bool = False
    origins: tuple[frozenset[Origin], ...] = ()
    keeps_zero: bool = True
    nonlinear: tuple[Expression, ...] = ()
    normalized: tuple[Expression, ...] = ()
    directions: frozenset[Origin] = frozenset()


@dataclass(frozen=True, slots=True)
class Mark:
    """A dimension of a parameter has a role towards the axes of an expression."""

    origin: Origin
    role: Role
    within: Expression


@dataclass(frozen=True, slots=True)
class Literal:
    """A length that the model's Python code passed to an operator.

    Attributes:
        recording, call: which call, by numbers.
        path: where in its arguments: position or keyword, then positions in nested lists.
        value: the length as an expression.
    """

    recording: int
    call: int
    path: tuple[int | str, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Fact:
    """What PyTorch calls a length of this call (`in_features`, say); these modules may hold it under that name."""

    modules: tuple[str, ...]
    path: tuple[str | int, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Operations:
    """A contraction over these lengths."""

    recording: int
    module: str
    lengths: tuple[Expression, ...]


class Solution:
    """Everything the rules said about one model. Filled by `Context`, read by the proof and the map's builder."""

    def __init__(self) -> None:
        self.space = Space()
        self.recordings: list[Recording] = []
        self.layouts: dict[str, tuple[Expression, ...]] = {}
        self.marks: dict[Mark, None] = {}
        self.nonlinear: list[tuple[Role, Expression, tuple[Expression, ...]]] = []
        self.neutrals: dict[str, float | None] = {}
        self.literals: list[Literal] = []
        self.facts: list[Fact] = []
        self.operations: list[Operations] = []
        self.kinds: list[tuple[Expression, str]] = []
        self.values: list[dict[int, Value]] = []
        self.used: list[set[int]] = []


Rule: TypeAlias = "Callable[[Context], Iterable[Value]]"
FindRule: TypeAlias = "Callable[[OpOverload], Rule | None]"


class Context:
    """One call while its rule speaks: reading arguments and making statements.

    Statements are about expressions (lengths) or about values (tensors); see the methods.
    """

    def __init__(self, solution: Solution, number: int, index: int) -> None:
        self.solution = solution
        self.space = solution.space
        self.recording = solution.recordings[number]
        self.call: Call = self.recording.calls[index]
        self.values = solution.values[number]
        self._number = number
        self._index = index

    # ------------------------------------------------------------------ arguments

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if position < len(self.call.args):
            return self.call.args[position]
        return self.call.kwargs.get(name, default)

    def path(self, position: int, name: str, *rest: int) -> tuple[int | str, ...]:
        """Where that argument stands, for `literal`."""
        return (position if position < len(self.call.args) else name, *rest)

    def value(self, argument: Any) -> Value:
        """What is known of a tensor argument; a tensor from nowhere is a constant with frozen dimensions."""
        assert isinstance(argument, Ref), f"{self.call.name}: a tensor was expected among the arguments"
        found = self.values.get(argument.value)
        if found is None:
            shape = self.recording.shapes[argument.value]
            reason = "a tensor that is neither a parameter, a buffer nor computed from the input"
            dims = tuple(self.space.axis(n, reason) for n in shape)
            found = Value(dims, static=True, constant=True, origins=(frozenset(),) * len(dims))
            self.values[argument.value] = found
        return found

    def optional(self, argument: Any) -> Value | None:
        """Like `value`, but None for an absent tensor."""
        return None if argument is None else self.value(argument)

    def tensors(self) -> list[Value]:
        """All tensor arguments in order, also those in lists."""
        found: list[Value] = []

        def visit(item: Any) -> None:
            if isinstance(item, Ref):
                found.append(self.value(item))
            elif isinstance(item, (list, tuple)):
                for inner in item:
                    visit(inner)

        visit((*self.call.args, *self.call.kwargs.values()))
        return found

    def used(self, output: int) -> bool:
        """Whether anything in the recording takes up an output."""
        return self.call.outputs[output] in self.solution.used[self._number]

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return self.recording.shapes[self.call.outputs[output]]

    # ------------------------------------------------------------------ statements about lengths

    def fresh(self, size: int, reason: str | None = None) -> Expression:
        """A fresh axis, frozen if a reason is given."""
        return self.space.axis(size, reason)

    def positions(self, sizes: Iterable[int]) -> list[Expression]:
        """Fresh frozen axes for spatial or temporal positions."""
        return [self.space.axis(n, "positions") for n in sizes]

    def unify(self, first: Expression, second: Expression) -> None:
        """These two lengths are the same."""
        self.space.unify(first, second)

    def freeze(self, expression: Expression, reason: str) -> None:
        """This length may not be edited; the place in the code is added to the reason."""
        self.space.freeze(expression, f"{reason} ({self.call.name} at {self.call.site.where})")

    def couple(self, expression: Expression, coupling: Coupling) -> None:
        """Growth of this length is not exact."""
        self.space.couple(expression, coupling)

    def kind(self, expression: Expression, word: str) -> None:
        """What a unit of this length is called."""
        self.solution.kinds.append((expression, word))

    def literal(self, path: tuple[int | str, ...], value: Expression) -> None:
        """The code passed this length as a number."""
        self.solution.literals.append(Literal(self._number, self._index, path, value))

    def fact(self, name: str | tuple[str | int, ...], value: Expression) -> None:
        """PyTorch's name for this length."""
        path = (name,) if isinstance(name, str) else name
        self.solution.facts.append(Fact(self._modules(), path, value))

    def _modules(self) -> tuple[str, ...]:
        """The module being run and those that own the parameters of this call."""
        names = {name for value in self.tensors() for origins in value.origins for name, _ in origins}
        return tuple(dict.fromkeys([self.call.site.module, *sorted(name.rpartition(".")[0] for name in names)]))

    def operations(self, *lengths: Expression) -> None:
        """The call multiplies and adds once for every combination of these lengths."""
        self.solution.operations.append(Operations(self._number, self.call.site.module, lengths))

    # ------------------------------------------------------------------ statements about tensors

    def mark(self, value: Value, dim: int, role: Role, within: Expression | None = None) -> None:
        """Dimension `dim` of a static value has this role (towards the axes of `within`, default all of it)."""
        if not value.static:
            return
        length = value.dims[dim] if within is None else within
        directions = value.origins[dim] & value.directions
        for origin in value.origins[dim]:
            own = self._divided(role, origin in directions) if directions else role
            self.solution.marks.setdefault(Mark(origin, own, length))
        produces = role is Role.PRODUCES
        along = (*value.nonlinear, *([length] if produces and directions else []))
        self.solution.nonlinear.append((role, length, along))
        for norm in value.normalized if produces else ():
            if self.space.roots(norm) & self.space.roots(length):
                self.couple(norm, Coupling.STANDARDIZED)

    @staticmethod
    def _divided(role: Role, direction: bool) -> Role:
        """The role of a direction or of its factor: directions produce, factors are read, as zeros there are zeros."""
        plays = {Role.PRODUCES: direction, Role.READS: not direction}.get(role, True)
        return role if plays else Role.CARRIES

    def carry(self, value: Value, neutral: float | None) -> None:
        """A static value meets the units one by one; `neutral` is the entry that does nothing."""
        for dim in range(len(value.dims)):
            self.mark(value, dim, Role.CARRIES)
        if value.static:
            for name in {name for origins in value.origins for name, _ in origins}:
                self.solution.neutrals.setdefault(name, neutral)

    def meets_activation(self, value: Value) -> None:
        """A static value is combined with activations: if no parameter is in it, its content belongs to positions."""
        if value.constant:
            for dim in value.dims:
                self.freeze(dim, "a buffer or constant is laid out over it")

    def positional(self, dim: Expression, what: str) -> None:
        """Units of this length are picked or ordered by position."""
        self.freeze(dim, what)

    # ------------------------------------------------------------------ results

    def derived(
        self,
        dims: Sequence[Expression],
        sources: Sequence[Value],
        keeps_zero: bool = True,
        nonlinear: Iterable[Expression] = (),
    ) -> Value:
        """A value computed from `sources`; static if all are, with origins found by the axes they share.

        `nonlinear` are the lengths along which the computation is not linear in their slices, one by one.
        """
        static = bool(sources) and all(source.static for source in sources)
        if not static:
            return Value(tuple(dims))
        return Value(
            tuple(dims),
            static=True,
            constant=all(source.constant for source in sources),
            origins=tuple(self._origins(dim, sources) for dim in dims),
            keeps_zero=keeps_zero and all(source.keeps_zero for source in sources),
            nonlinear=(*nonlinear, *dict.fromkeys(length for source in sources for length in source.nonlinear)),
            normalized=tuple(dict.fromkeys(length for source in sources for length in source.normalized)),
            directions=frozenset[Origin]().union(*(source.directions for source in sources)),
        )

    def _origins(self, dim: Expression, sources: Sequence[Value]) -> frozenset[Origin]:
        roots = self.space.roots(dim)
        found: set[Origin] = set()
        for source in sources:
            same = [o for d, o in zip(source.dims, source.origins, strict=True) if d is dim]
            near = same or [o for d, o in zip(source.dims, source.origins, strict=True) if roots & self.space.roots(d)]
            found.update(*near)
        return frozenset(found)

    def unknown(self) -> list[Value]:
        """Freeze everything this call touches, and name it."""
        reason = f"operator {self.call.operator} has no rule"
        sources = self.tensors()
        for value in sources:
            for dim in value.dims:
                self.freeze(dim, reason)
        outputs = []
        for output in range(len(self.call.outputs)):
            dims = [self.fresh(n, reason) for n in self.shape(output)]
            outputs.append(self.derived(dims, sources, keeps_zero=False))
        return outputs


def broadcast(context: Context, values: Sequence[Value]) -> list[Expression]:
    """The dimensions of an elementwise result: equal lengths are unified, length 1 gives way, from the right."""
    rank = max((len(value.dims) for value in values), default=0)
    result: list[Expression] = [ONE] * rank
    for back in range(1, rank + 1):
        present = [value.dims[-back] for value in values if len(value.dims) >= back]
        wide = [dim for dim in present if context.space.size(dim) != 1]
        for other in wide[1:]:
            context.unify(wide[0], other)
        result[-back] = wide[0] if wide else next((d for d in present if d != ONE), ONE)
    return result


def solve(
    recordings: Sequence[Recording], tensors: Mapping[str, tuple[int, ...]], buffers: Container[str], find: FindRule
) -> Solution:
    """Let the rules speak about every call of every recording.

    Args:
        recordings: runs of the same model.
        tensors: shape of each parameter and buffer by canonical name.
        buffers: which of the names are buffers.
        find: the rule of an operator, or None.
    """
    solution = Solution()
    for name, shape in tensors.items():
        solution.layouts[name] = tuple(solution.space.axis(n) for n in shape)
    for number, recording in enumerate(recordings):
        solution.recordings.append(recording)
        solution.used.append({n for call in recording.calls for n in references(call)} | set(recording.results))
        solution.values.append(_starting_values(solution, recording, buffers))
        for index, call in enumerate(recording.calls):
            context = Context(solution, number, index)
            found = find(call.operator)
            results = context.unknown() if found is None else found(context)
            for output, value in zip(call.outputs, results, strict=True):
                _check(recording, call, output, value)
                solution.values[number][output] = value
        for result in recording.results:
            value = solution.values[number].get(result)
            for dim in value.dims if value is not None else ():
                solution.space.freeze(dim, "model output")
    _freeze_unread_pieces(solution)
    return solution


_CUTTING = {
    "aten.slice", "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_split", "aten.unsafe_chunk",
    "aten.unsafe_split_with_sizes", "aten.tensor_split",
}  # fmt: skip


def _freeze_unread_pieces(solution: Solution) -> None:
    """What is cut off and never read is not free: another input may read it, a longer sequence say."""
    read: set[int] = set()
    for recording, values in zip(solution.recordings, solution.values, strict=True):
        own = set(recording.named.values())
        for call in recording.calls:
            for number in references(call) if call.name not in _CUTTING else ():
                if number not in own and number in values:
                    read.update(*map(solution.space.roots, values[number].dims))
    for piece in solution.space.pieces:
        for root in solution.space.roots(piece) - read:
            solution.space.reasons[root].setdefault("the example reads no unit of it: another input may")


def _starting_values(solution: Solution, recording: Recording, buffers: Container[str]) -> dict[int, Value]:
    values: dict[int, Value] = {}
    for number in recording.inputs:
        values[number] = Value(tuple(solution.space.axis(n, "model input") for n in recording.shapes[number]))
    for name, number in recording.named.items():
        dims = solution.layouts[name]
        origins = tuple(frozenset({(name, dim)}) for dim in range(len(dims)))
        values[number] = Value(dims, static=True, constant=name in buffers, origins=origins)
    return values


def _check(recording: Recording, call: Call, output: int, value: Value) -> None:
    """A rule that contradicts the recorded shape is a defect of ours: never let it through."""
    if len(value.dims) != len(recording.shapes[output]):
        shape = recording.shapes[output]
        raise AssertionError(
            f"the rule of {call.operator} at {call.site.where} predicts {len(value.dims)} dimensions for {shape}"
        )


__all__ = [
    "Context",
    "Fact",
    "Literal",
    "Mark",
    "Operations",
    "Origin",
    "Rule",
    "Solution",
    "Value",
    "broadcast",
    "solve",
]
