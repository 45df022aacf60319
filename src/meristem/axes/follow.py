"""Following units through the recording, from the weights that produce them to the weights that read them.

Growth methods that compute newborns from statistics need to know what a newborn's activation would pass through:
activations, pooling, batch normalization, or something that makes the question meaningless. The recording of the
forward pass knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from meristem.axes.branches import Run, titles
from meristem.axes.contracted import Contractions, activation
from meristem.axes.expression import ONE, Concat, Expression, Leaf, Product, leaves
from meristem.axes.live import Model
from meristem.axes.map import Example, Role, TensorLayout
from meristem.axes.operands import Operands
from meristem.axes.operators import elementwise
from meristem.axes.path import BatchNorm, End, Path, Slot, Step
from meristem.axes.recorder import Call, Recording, Ref, references, refs
from meristem.axes.solution import Solution
from meristem.axes.trial import not_proportional

_SAME = {
    "aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.to", "aten._to_copy", "aten.type_as",
    "aten.float", "aten.half",
}  # fmt: skip
_ARRANGING = {
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.permute",
    "aten.transpose", "aten.t", "aten.movedim", "aten.squeeze", "aten.unsqueeze", "aten.cat", "aten.split",
    "aten.split_with_sizes", "aten.chunk", "aten.slice", "aten.narrow", "aten.unbind",
}  # fmt: skip
"""These leave entries as they are; whether they arrive where they would without, the arrangement at the end shows."""

_SUMS = ("aten.add", "aten.sub")
_SEVERAL = "several channels belong to one unit"
_PADS = ("aten.pad", "aten.constant_pad_nd")

MOST = 16
"""Up to so many weights may add into one activation; beyond, a stream is too long to be followed one by one."""


@dataclass(frozen=True, slots=True)
class _Partial:
    """A path whose end is not yet known, with the arrangement of the activation it has led to."""

    producer: End
    steps: tuple[Step | BatchNorm, ...]
    dims: tuple[Expression, ...]
    blocked: str | None = None
    unknown: str | None = None
    cut: bool = False
    last: tuple[Step, ...] = ()
    several: bool = False


_Carried = dict[int, list[_Partial]]


def follow(
    solution: Solution,
    layouts: Mapping[str, TensorLayout],
    number: Mapping[int, int],
    model: Model,
    examples: Sequence[Example],
) -> list[Run]:
    """All paths of all recordings, one by one; see `joined` and `contractions_of`.

    Args:
        solution: what was solved.
        layouts: the finished layouts, over numbered axes.
        number: the number of each axis in the map, by its root.
        model: the model, to which paths still have to be bound (`Path.bound`).
        examples: what each recording is of.
    """
    named = enumerate(titles(examples))
    return [_Search(solution, recording, layouts, number, model).run(title) for recording, title in named]


class _Search:
    """One walk through a recording that carries along where every unit came from."""

    def __init__(
        self,
        solution: Solution,
        recording: int,
        layouts: Mapping[str, TensorLayout],
        number: Mapping[int, int],
        model: Model,
    ) -> None:
        self._recording: Recording = solution.recordings[recording]
        self._values = solution.values[recording]
        self._space = solution.space
        self._layouts = layouts
        self._number = number
        self._names = {ref: name for name, ref in self._recording.named.items()}
        self._carried: dict[int, _Carried] = {}
        self._contractions = Contractions(self._recording, layouts, self._dims)
        self._operands = Operands(self._recording, self._values, layouts, model, self._dims)
        self._found: dict[int, list[Path]] = {}
        self._tried: dict[int, str | None] = {}

    def run(self, title: str) -> Run:
        """Walk, and give what was found under that title."""
        for call in self._recording.calls:
            end = self._contractions.next(call)
            if end is not None:
                self._contract(call, end)
            elif call.name == "aten.embedding":
                self._look_up(call)
            else:
                self._pass(call)
            self._operands.note(call)
        ends = tuple(self._contractions.ends)
        contracted = {(end.weight, end.call) for end in ends}
        paths = {axis: tuple(found) for axis, found in self._found.items()}
        looked_up = {(path.producer.weight, path.producer.call) for found in paths.values() for path in found}
        others = frozenset(self._contractions.others)
        return Run(title, paths, frozenset(contracted | looked_up), ends, others)

    # ------------------------------------------------------------------ contractions

    def _contract(self, call: Call, end: End) -> None:
        weight, layout = end.weight, self._layouts[end.weight]
        roles = {(axis, role) for found in layout.roles for axis, kinds in found.items() for role in kinds}
        x = activation(call)
        cut = _cut(call, x)
        out = call.outputs[0]
        for axis, partials in self._carried.get(x, {}).items():
            if (axis, Role.READS) in roles:
                for partial in partials:
                    found = self._finished(axis, replace(partial, cut=partial.cut or cut), end, x, layout)
                    self._found.setdefault(axis, []).append(found)
            else:
                name = f"{call.name.removeprefix('aten.')} at {call.site.where}"
                drawn = f", with {weight} that is drawn for newborns," if (axis, Role.CARRIES) in roles else ""
                self._block(out, axis, f"{name}{drawn} mixes positions", end)
        dims = self._dims(out)
        for axis in dict.fromkeys(leaf for dim in dims for leaf in leaves(dim)):
            if (axis, Role.PRODUCES) in roles:
                several = end.groups > 1 or not _alone(layout, Role.PRODUCES, axis)
                blocked = None if not several or self._inside(out, axis, end.groups) else "units are whole groups"
                self._carried.setdefault(out, {})[axis] = [_Partial(end, (), dims, blocked, several=several)]

    def _inside(self, out: int, axis: int, groups: int) -> bool:
        """Whether a unit has channels in every group that a convolution gives, and does not make a group of its own."""
        channels = self._space.resolve(self._values[out].dims[1]) if groups > 1 else ONE
        for factor in channels.factors if isinstance(channels, Product) else (channels,):
            if groups == 1:
                break
            if axis in leaves(self._numbered(factor)):
                return False
            groups //= self._space.size(factor)
        return True

    def _look_up(self, call: Call) -> None:
        """What an embedding produces can be followed to those who read it, but no newborn computed from statistics."""
        name, out = self._names.get(call.args[0].value), call.outputs[0]
        roles = {} if name is None or self._layouts[name].buffer else self._layouts[name].roles[-1]
        for axis in (axis for axis, kinds in roles.items() if Role.PRODUCES in kinds):
            self._carried.setdefault(out, {})[axis] = []
            self._block(out, axis, "an embedding produces its units", End(name or "", 0))

    def _finished(self, axis: int, partial: _Partial, end: End, x: int, layout: TensorLayout) -> Path:
        blocked, flattened = partial.blocked, False
        if blocked is None:
            before, after = _arranged(partial.dims, axis), _arranged(self._dims(x), axis)
            flattened = before != after
            if flattened and _flattened(partial.dims, axis) != after:
                blocked = "its units are rearranged before they are read"
            elif not flattened and not partial.several and not _alone(layout, Role.READS, axis):
                blocked = _SEVERAL
        if partial.several and flattened:
            blocked = blocked or "its positions are flattened"
        steps = () if blocked else partial.steps
        several = partial.several and blocked is None
        if partial.several:
            blocked = f"{blocked}, and {_SEVERAL}" if blocked else _SEVERAL
        cut, last, unknown = partial.cut, partial.last, partial.unknown
        return Path(partial.producer, end, steps, flattened, blocked, unknown, cut, last, several)

    # ------------------------------------------------------------------ everything else

    def _pass(self, call: Call) -> None:
        sources = {ref: _cut(call, ref) for ref in references(call) if ref in self._carried}
        if not sources:
            return
        for out in call.outputs:
            present = {leaf for dim in self._dims(out) for leaf in leaves(dim)}
            arriving = [
                (axis, replace(self._stepped(call, source, out, axis, partial), cut=partial.cut or cut, last=last))
                for source, cut in sources.items()
                for axis, partials in self._carried[source].items()
                if axis in present
                for partial in partials
                for last in [self._last(call, source, partial)]
            ]
            self._carried.pop(out, None)  # an in-place operator gives its argument, which is now something else
            for axis, partial in arriving:
                self._carry(out, axis, partial)

    def _carry(self, out: int, axis: int, partial: _Partial) -> None:
        held = self._carried.setdefault(out, {}).setdefault(axis, [])
        if held and held[0].blocked is not None:
            held[0] = replace(held[0], last=held[0].last or partial.last)
            return
        if partial.blocked is not None or len(held) == MOST:
            reason = partial.blocked or f"more than {MOST} weights add into it"
            last = next((one.last for one in (partial, *held) if one.last), ())
            held[:] = [replace(partial, steps=(), blocked=reason, last=last)]
        else:
            held.append(partial)

    def _block(self, out: int, axis: int, reason: str, end: End) -> None:
        self._carry(out, axis, _Partial(end, (), (), reason))

    def _stepped(self, call: Call, source: int, out: int, axis: int, partial: _Partial) -> _Partial:
        """The path, one operator further."""
        if partial.blocked is not None or call.name in _SAME or call.name in _ARRANGING:
            return partial
        where = f"{call.name.removeprefix('aten.')} at {call.site.where}"
        others = [ref for ref in references(call) if ref != source]
        if out != call.outputs[0]:
            return replace(partial, blocked=f"{where} gives something else besides")
        if call.name == "aten.batch_norm":
            return replace(partial, steps=(*partial.steps, self._batch_norm(call)))
        if call.name == "aten.mean":
            return self._averaged(call, source, axis, partial, where)
        if not elementwise(call.operator):
            return self._mixed(call, source, out, axis, partial, where)
        if all(map(self._operands.shared, others)):
            return replace(partial, steps=(*partial.steps, self._operands.step(call, source)))
        if self._dims(source) != self._dims(out) and _arranged(self._dims(source), axis) != _arranged(
            self._dims(out), axis
        ):
            return replace(partial, blocked=f"{where} repeats its units over positions")
        if self._adds(call, source):
            reason = None if self._adds_nothing(axis, others) else f"{where} adds what may not be zero for newborns"
            return replace(partial, unknown=partial.unknown or reason)
        own = {other: self._operands.neutral(other, axis) for other in others if not self._operands.shared(other)}
        born = {other: number for other, number in own.items() if number is not None}
        if len(born) == len(own):
            return replace(partial, steps=(*partial.steps, self._operands.step(call, source, born)))
        reason = "combines it with another activation"
        if all(value is not None and value.static for value in map(self._values.get, own.keys() - born.keys())):
            reason = "combines it with numbers that are not known before newborns are born"
        return replace(partial, blocked=f"{where} {reason}")

    def _mixed(self, call: Call, source: int, out: int, axis: int, partial: _Partial, where: str) -> _Partial:
        """An operator that is not elementwise, one operator further: tried where each unit is a map of positions."""
        dims, after = self._dims(source), self._dims(out)
        moved = _arranged(dims, axis) != _arranged(after, axis)
        if call.name in _PADS and not moved:
            return partial  # it pads with other units
        if "norm" in call.name:
            return replace(partial, blocked=f"{where} normalizes, so that nothing is in proportion to weights of units")
        if len([*references(call)]) != 1 or not _straight(dims, partial.dims, axis) or after[:2] != dims[:2]:
            return replace(partial, blocked=f"{where} is not known to leave units apart")
        args, kwargs = self._operands.arguments(call, lambda _: Slot())
        step = Step(call.operator, args, kwargs)
        if out not in self._tried:
            self._tried[out] = not_proportional(step, self._recording.shapes[source][2:])
        if (reason := self._tried[out]) is not None:
            return replace(partial, blocked=f"{where} {reason}")
        return replace(partial, steps=(*partial.steps, step), dims=after)

    def _last(self, call: Call, source: int, partial: _Partial) -> tuple[Step, ...]:
        """What was applied last, one operator further: a norm makes a new beginning, as a contraction does."""
        if "norm" in call.name:
            return ()
        if not elementwise(call.operator) or call.name in _SAME or call.name in _ARRANGING:
            return partial.last
        others = [ref for ref in references(call) if ref != source]
        shared = all(map(self._operands.shared, others))
        return (*partial.last, self._operands.step(call, source)) if shared else partial.last

    def _adds(self, call: Call, source: int) -> bool:
        """Whether something is added to units, or subtracted from them."""
        first = isinstance(call.args[0], Ref) and call.args[0].value == source
        scaled = call.kwargs.get("alpha", 1) != 1 or len(call.args) > 2
        return call.name in _SUMS and not scaled and (first or call.name == "aten.add")

    def _adds_nothing(self, axis: int, others: Iterable[int]) -> bool:
        """Whether operands are all zero for newborns but for what weights at the ends of other paths give, or carry the
        axis with a neutral entry of 0."""
        return all(axis in self._carried.get(o, {}) or self._operands.neutral(o, axis) == 0 for o in others)

    def _averaged(self, call: Call, source: int, axis: int, partial: _Partial, where: str) -> _Partial:
        dims = self._dims(source)
        if not _straight(dims, partial.dims, axis):
            return replace(partial, blocked=f"{where} averages over rearranged positions")
        over = call.args[1] if len(call.args) > 1 else None
        spatial = set(range(2, len(dims)))
        if not isinstance(over, (list, tuple)) or {d % len(dims) for d in over} != spatial:
            return replace(partial, blocked=f"{where} reduces more or less than the positions")
        step = Step(call.operator, (Slot(), list(over), True), {})
        return replace(partial, steps=(*partial.steps, step), dims=(*dims[:2], *(ONE for _ in spatial)))

    def _batch_norm(self, call: Call) -> BatchNorm:
        weight, bias, mean, variance = (
            self._names.get(arg.value) if isinstance(arg, Ref) else None for arg in call.args[1:5]
        )
        return BatchNorm(weight, bias, mean, variance, eps=float(call.args[7]))

    def _dims(self, ref: int) -> tuple[Expression, ...]:
        """The dimensions of a value over numbered axes; lengths that no parameter has get negative numbers."""
        found = self._values.get(ref)
        if found is None:
            return ()
        return tuple(self._numbered(self._space.resolve(dim)) for dim in found.dims)

    def _numbered(self, expression: Expression) -> Expression:
        if isinstance(expression, Leaf):
            return Leaf(self._number.get(expression.axis, -1 - expression.axis))
        if isinstance(expression, Product):
            return Product(tuple(self._numbered(factor) for factor in expression.factors))
        return Concat(tuple(self._numbered(part) for part in expression.parts))


def _alone(layout: TensorLayout, role: Role, axis: int) -> bool:
    """Whether one index of the dimension with this role is one unit, and nothing else."""
    dims = [d for d, roles in zip(layout.dims, layout.roles, strict=True) if role in roles.get(axis, ())]
    return len(dims) == 1 and _piece(dims[0], axis) == Leaf(axis)


def _piece(dim: Expression, axis: int) -> Expression | None:
    """The only piece of a dimension in which an axis occurs; the dimension itself if it is no concatenation."""
    if not isinstance(dim, Concat):
        return dim if axis in leaves(dim) else None
    found = [part for part in dim.parts if axis in leaves(part)]
    return _piece(found[0], axis) if len(found) == 1 else None


def _arranged(dims: Iterable[Expression], axis: int) -> tuple[Expression | None, ...]:
    """Dimensions with a concatenation replaced by the piece that holds the axis; lengths of 1 at the end left out."""
    found = [_piece(dim, axis) if axis in leaves(dim) else dim for dim in dims]
    while found and found[-1] == ONE:
        found.pop()
    return tuple(found)


def _straight(dims: Sequence[Expression], before: Iterable[Expression], axis: int) -> bool:
    """Whether units are channels or consist of them, `(batch, axis, *positions)`, arranged as they were before."""
    channels = len(dims) > 2 and _piece(dims[1], axis) is not None
    return channels and _arranged(dims, axis) == _arranged(before, axis)


def _flattened(dims: Sequence[Expression], axis: int) -> tuple[Expression | None, ...]:
    """What `_arranged` gives once channels and positions `(batch, axis, *positions)` are flattened."""
    if len(dims) < 3 or dims[1] != Leaf(axis):
        return ()
    factors = tuple(dim for dim in dims[2:] if dim != ONE)
    return (dims[0], Product((Leaf(axis), *factors)) if factors else Leaf(axis))


def _cut(call: Call, ref: int) -> bool:
    """Whether a tensor is detached wherever it stands among the arguments."""
    return all(found.cut for found in refs(call) if found.value == ref)
