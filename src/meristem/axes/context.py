"""What a rule sees and says while one call of a recording is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from torch._ops import OpOverload

from meristem.axes.expression import ONE, Expression
from meristem.axes.guards import Guard, computed
from meristem.axes.map import Coupling, Role
from meristem.axes.recorder import Call, Ref
from meristem.axes.solution import Fact, Literal, Mark, Operations, Origin, Solution, Value

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
        if coupling is Coupling.BILINEAR:
            self.solution.products.append((self._number, self._index, expression))

    def alike(self, first: Expression, second: Expression) -> None:
        """A faster kernel computes the call where these two lengths are the same."""
        self.solution.alike.append((first, second))

    def differ(self, first: Expression, second: Expression) -> None:
        """The operator tells what to do by the difference of these two lengths."""
        left, right = (computed(self.space.resolve(each), lambda leaf: leaf) for each in (first, second))
        site = self.call.site
        self.solution.guards.setdefault(Guard("!=", left, right, True, site.where, site.module))

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
        self.solution.bent |= value.bent
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
        """A static value meets the units one by one; `neutral` is the entry that does nothing.

        A parameter has that neutral entry too if it is the value itself, or if the value is linear in it and zero does
        nothing; and if it is the same wherever the parameter is met.
        """
        for dim in range(len(value.dims)):
            self.mark(value, dim, Role.CARRIES)
        if value.static:
            known = neutral if value.plain or (neutral == 0 and self._linear(value)) else None
            for name in {name for origins in value.origins for name, _ in origins}:
                held = self.solution.neutrals.setdefault(name, known)
                if known is None or held not in (None, known):
                    self.solution.neutrals[name] = None
                    self.solution.unknown.add(name)
                self.solution.joined[name] = False

    def _linear(self, value: Value) -> bool:
        """Whether a static value is zero where its parameters are, and linear in their slices; buffers do not learn, so
        that for them the first is enough."""
        if value.bent or not value.keeps_zero:
            return False
        shown = {root for dim in value.dims for root in self.space.roots(dim)}
        return value.constant or not any(shown & self.space.roots(length) for length in value.nonlinear)

    def join(self, value: Value) -> None:
        """A static value stands beside activations, entry by entry."""
        for dim in range(len(value.dims)):
            self.mark(value, dim, Role.CARRIES)
        for name in {name for origins in value.origins for name, _ in origins}:
            self.solution.neutrals.setdefault(name, None)
            self.solution.joined[name] = self.solution.joined.get(name, True) and not value.nonlinear

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
        nonlinear = tuple(nonlinear)
        origins = tuple(self._origins(dim, sources) for dim in dims)
        shown = {name for found in origins for name, _ in found}
        return Value(
            tuple(dims),
            static=True,
            constant=all(source.constant for source in sources),
            origins=origins,
            keeps_zero=keeps_zero and all(source.keeps_zero for source in sources),
            nonlinear=(*nonlinear, *dict.fromkeys(length for source in sources for length in source.nonlinear)),
            normalized=tuple(dict.fromkeys(length for source in sources for length in source.normalized)),
            directions=frozenset[Origin]().union(*(source.directions for source in sources)),
            plain=keeps_zero and not nonlinear and all(source.plain for source in sources),
            entries=frozenset[str]().union(*(source.entries for source in sources)) & shown,
            bent=frozenset[str]().union(*(source.bent for source in sources)),
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
