"""How tensors flow through the modules of a model: the graph of one run, and which part of it each module call is.

A recording numbers tensors by identity, so an operator that works in place gives back the number that it got. Here each
content of a tensor is a `Version`, and every operator call reads and writes versions: a directed graph without cycles.
What is written into a tensor gives a new content to all that shares memory with it: to its views and what it views.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

from meristem.axes.fake import fake_or_real, without_graph
from meristem.axes.map import Example
from meristem.axes.operators import reshapes
from meristem.axes.recorder import SAME_TENSOR, Call, Recorder, Recording, Ref, references, tensors_in
from meristem.axes.rules import known
from meristem.axes.running import run


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a module.

    Attributes:
        module: its qualified name.
        first, last: the operator calls within, `first <= call < last`.
        inputs, outputs: the numbers of the tensors among its arguments and in its result, in order.
        alone: whether it was called with one positional argument, a tensor, and nothing else.
        leads: whether its first positional argument is a tensor: `inputs[0]`.
        returns: whether its result is a tensor.
        nones: how many Nones follow the tensor where the result is a tuple of a tensor and Nones; otherwise 0.
    """

    module: str
    first: int
    last: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    alone: bool = False
    leads: bool = False
    returns: bool = False
    nones: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One content of a tensor: its number in the recording, and the operator call that wrote it (-1: none did)."""

    number: int
    call: int


class Flow:
    """The graph of one run of a model.

    Attributes:
        recording: all operator calls.
        invocations: all calls of modules, in the order in which they began.
        parameters: the names of those of the recording's named tensors that are parameters.
        reads, writes: by operator call, the versions that it reads and writes.
        active: the versions that depend on the model's inputs.
        base: by the number of a view, that of the tensor of which it is one.
        form: how the model's results are nested: the types of all that holds tensors, with keys and names.
    """

    def __init__(
        self,
        recording: Recording,
        invocations: Sequence[Invocation],
        parameters: frozenset[str] = frozenset(),
        form: object = None,
    ) -> None:
        self.recording = recording
        self.parameters = parameters
        self.form = form
        self.invocations = tuple(invocations)
        self.reads: list[tuple[Version, ...]] = []
        self.writes: list[tuple[Version, ...]] = []
        self.active: set[Version] = {Version(number, -1) for number in recording.inputs}
        self._history: dict[int, list[int]] = {}
        self.base: dict[int, int] = {}
        base = self.base
        views: dict[int, list[int]] = {}
        for index, call in enumerate(recording.calls):
            read = tuple(dict.fromkeys(self.version(number, index) for number in references(call)))
            written = dict.fromkeys(call.outputs)
            for number in changed_by(call):  # what shares memory with it changes too
                origin = base.get(number, number)
                written |= dict.fromkeys((number, origin, *views.get(origin, ())))
            if _is_view(call.operator) and read:
                origin = base.get(read[0].number, read[0].number)
                seen = [number for number in dict.fromkeys(call.outputs) if number != read[0].number]
                base |= dict.fromkeys(seen, origin)
                views.setdefault(origin, []).extend(seen)
            for number in written:
                self._history.setdefault(number, []).append(index)
            made = tuple(Version(number, index) for number in written)
            self.reads.append(read)
            self.writes.append(made)
            if not self.active.isdisjoint(read):
                self.active.update(made)

    def version(self, number: int, before: int) -> Version:
        """The content that a tensor has just before an operator call."""
        writers = self._history.get(number, [])
        earlier = bisect_left(writers, before)
        return Version(number, writers[earlier - 1] if earlier else -1)

    @cached_property
    def results(self) -> tuple[Version, ...]:
        """What comes out of the model."""
        return tuple(self.version(number, len(self.recording.calls)) for number in self.recording.results)

    @cached_property
    def readers(self) -> Mapping[Version, tuple[int, ...]]:
        """By version, the operator calls that read it; `len(calls)` stands for the model's results."""
        found: dict[Version, list[int]] = {}
        for index, read in enumerate([*self.reads, self.results]):
            for version in dict.fromkeys(read):
                found.setdefault(version, []).append(index)
        return {version: tuple(calls) for version, calls in found.items()}

    @cached_property
    def of(self) -> Mapping[str, tuple[Invocation, ...]]:
        """All calls of each module."""
        found: dict[str, list[Invocation]] = {}
        for invocation in self.invocations:
            found.setdefault(invocation.module, []).append(invocation)
        return {module: tuple(calls) for module, calls in found.items()}

    def shape(self, version: Version) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.recording.shapes[version.number]

    def entering(self, invocation: Invocation) -> tuple[Version, ...]:
        """The active tensors that a module is given."""
        found = (self.version(number, invocation.first) for number in invocation.inputs)
        return tuple(version for version in dict.fromkeys(found) if version in self.active)

    def leaving(self, invocation: Invocation) -> tuple[Version, ...]:
        """The active tensors that a module returns."""
        found = (self.version(number, invocation.last) for number in invocation.outputs)
        return tuple(version for version in dict.fromkeys(found) if version in self.active)

    def reaches_past(self, invocation: Invocation) -> bool:
        """Whether active tensors get into or out of a module by other ways than its arguments and its result."""
        inside = range(invocation.first, invocation.last)
        given, returned = set(self.entering(invocation)), set(self.leaving(invocation))
        for index in inside:
            for version in self.reads[index]:
                if version in self.active and version not in given and version.call not in inside:
                    return True
            for version in self.writes[index]:
                outside = any(reader not in inside for reader in self.readers.get(version, ()))
                if version in self.active and outside and version not in returned:
                    return True
        return False


class _Recorder(Recorder):
    """A recorder for which copies are calls: they have memory of their own."""

    renames = SAME_TENSOR - {"aten.clone"}


def record_flow(model: nn.Module, example: Example) -> Flow:
    """Run a model once, on fake tensors where that suffices, and note operator calls and module calls.

    The model is left untouched.

    Raises:
        Exception: whatever the model's code raises.
    """
    return without_graph(lambda graph: fake_or_real(lambda real: _recorded(model, example, real=real, graph=graph)))


def _recorded(model: nn.Module, example: Example, *, real: bool, graph: bool) -> Flow:
    args, kwargs, training = example
    names = {id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    begun: list[int] = []
    found: list[Invocation] = []
    recorder: Recorder | None = None
    form: object = None

    def make(stack: list[str], fake: FakeTensorMode | None) -> Recorder:
        nonlocal recorder
        recorder = _Recorder(known, stack, fake)
        return recorder

    def calls() -> list[Call]:
        assert recorder is not None, "no module runs before there is a recorder"
        return recorder.recording.calls

    def enter(module: nn.Module, _given: Any) -> None:
        begun.append(len(found))
        found.append(Invocation(names[id(module)], len(calls()), len(calls()), (), ()))

    def leave(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
        nonlocal form
        assert recorder is not None, "no module runs before there is a recorder"
        position = begun.pop()
        form = None if begun else _form(result)
        found[position] = replace(
            found[position],
            last=len(calls()),
            inputs=tuple(map(recorder.number, tensors_in((given, dict(named))))),
            outputs=tuple(map(recorder.number, tensors_in(result))),
            alone=len(given) == 1 and not named and isinstance(given[0], Tensor),
            leads=bool(given) and isinstance(given[0], Tensor),
            returns=isinstance(result, Tensor),
            nones=_nones(result),
        )

    handles = [module.register_forward_pre_hook(enter) for module in model.modules()]
    handles += [module.register_forward_hook(leave, with_kwargs=True) for module in model.modules()]
    try:
        recording = run(model, args, kwargs, make, real=real, training=training, graph=graph).recording
    finally:
        for handle in handles:
            handle.remove()
    return Flow(recording, found, frozenset(dict(model.named_parameters())), form)


def _form(result: Any) -> object:
    """How a result is nested, as `tensors_in` looks into it."""
    if isinstance(result, Mapping):
        return type(result).__name__, tuple((str(key), _form(item)) for key, item in result.items())
    if isinstance(result, (list, tuple, set)):
        return type(result).__name__, tuple(map(_form, result))
    if hasattr(result, "__dataclass_fields__"):
        names = type(result).__dataclass_fields__
        return type(result).__name__, tuple((name, _form(getattr(result, name, None))) for name in names)
    return "tensor" if isinstance(result, Tensor) else type(result).__name__


def _nones(result: Any) -> int:
    """How many Nones follow the tensor in a tuple of a tensor and Nones."""
    if not (isinstance(result, tuple) and result and isinstance(result[0], Tensor)):
        return 0
    return len(result) - 1 if all(entry is None for entry in result[1:]) else 0


def changed_by(call: Call) -> tuple[int, ...]:
    """The numbers of the tensors among a call's arguments into which the operator writes."""
    names = _written(call.operator)
    if not names or reshapes(call.operator):
        return ()
    given = dict(zip((argument.name for argument in call.operator._schema.arguments), call.args, strict=False))
    found = [{**given, **call.kwargs}.get(name) for name in names]
    flat = [item for entry in found for item in (entry if isinstance(entry, (list, tuple)) else (entry,))]
    return tuple(item.value for item in flat if isinstance(item, Ref))


@cache
def _written(operator: OpOverload) -> tuple[str, ...]:
    """The names of the arguments into which an operator writes."""
    arguments = operator._schema.arguments
    return tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _is_view(operator: OpOverload) -> bool:
    """Whether results share memory with an argument whose content is not written."""
    aliases = (returned.alias_info for returned in operator._schema.returns)
    return reshapes(operator) or any(alias is not None and not alias.is_write for alias in aliases)
