"""Memory that tensors share: where the identity would let an operator overwrite what somebody else needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch

from meristem.axes.flow import Flow, Invocation, changed_by
from meristem.axes.recorder import Ref
from meristem.depth.edges import Side


def overwritten(flow: Flow, call: Invocation) -> tuple[int, ...]:
    """The positions, among what a module is given, of the tensors into which it writes."""
    inside = range(call.first, call.last)
    return tuple(place for place, number in enumerate(call.inputs) if written(flow, number, inside))


def written(flow: Flow, number: int, calls: Iterable[int]) -> bool:
    """Whether some operator calls write into the memory of a tensor."""
    memory = flow.base.get(number, number)
    changed = (other for index in calls for other in changed_by(flow.recording.calls[index]))
    return any(flow.base.get(other, other) == memory for other in changed)


def written_beside(flow: Flow, call: Invocation, side: Side) -> bool:
    """Whether somebody writes into the tensor that a module is given, or returns, although something else has taken its
    place there: it may not read the tensor itself then, but a copy."""
    later = range(call.last, len(flow.recording.calls))
    if side == "before":
        return 0 not in overwritten(flow, call) and written(flow, call.inputs[0], later)
    number = call.outputs[0]
    memory = flow.base.get(number, number)
    made = next((index for index, other in enumerate(flow.recording.calls) if memory in other.outputs), -1)
    return not call.first <= made < call.last and written(flow, number, later)


def written_through(flow: Flow, call: Invocation, side: Side) -> bool:
    """Whether somebody writes into what has taken the place of the tensor that a module is given, or returns."""
    number, first = (call.inputs[0], call.first) if side == "before" else (call.outputs[0], call.last)
    return written(flow, number, range(first, len(flow.recording.calls)))


def to_copy(flows: Iterable[Flow], modules: Iterable[str]) -> frozenset[str]:
    """Those of some modules for which the identity is no substitute, but a copy of what it is given is: what they
    return is written in place later while somebody needs what they are given, or the other way round.

    Who needs it is a call that reads it (for what it returns or for its derivative), whoever gave it to the model, or
    the derivative of the operator that made it, as that of ReLU.

    Args:
        flows: runs with these modules.
        modules: in whose place the identity is to stand, in all of them at once.
    """
    wanted = frozenset(modules)
    return frozenset(module for flow in flows for module in _copying(flow, wanted))


def _copying(flow: Flow, wanted: frozenset[str]) -> set[str]:
    memory = _Memory(flow, wanted)
    found: set[str] = set()
    calls = [call for call in flow.invocations if call.module in wanted and call.inputs and call.outputs]
    for call in calls if memory.writers else ():
        others = [other for other in calls if other is not call and other.module not in found]
        if call.module not in found and memory.disturbed(call, others):
            found.add(call.module)
    return found


class _Memory:
    """Who makes, reads and writes which memory in what remains of a run; it is named by the tensor that is no view."""

    def __init__(self, flow: Flow, without: Collection[str]) -> None:
        self.flow = flow
        self.gone = {
            index for call in flow.invocations if call.module in without for index in range(call.first, call.last)
        }
        self.made: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        self.writers: dict[int, list[int]] = {}
        for index, call in enumerate(flow.recording.calls):
            changed = changed_by(call)
            for number in set(call.outputs).difference(flow.base, changed):
                self.made.setdefault(number, index)
            if index in self.gone:
                continue
            for number in changed:
                self.writers.setdefault(self._of(number), []).append(index)
            looks = not changed and any(number in flow.base for number in call.outputs)
            for version in () if looks else flow.reads[index]:
                self.readers.setdefault(self._of(version.number), []).append(index)
        for version in flow.results:
            self.readers.setdefault(self._of(version.number), []).append(len(flow.recording.calls))

    def disturbed(self, call: Invocation, others: Collection[Invocation]) -> bool:
        """Whether a call cannot be the identity, if others are."""
        given, made = self._shared(call.inputs[0], others), self._shared(call.outputs[0], others)
        if not given.isdisjoint(made):
            return False
        if self._last(self.writers, given) >= call.first:
            return True
        return self._last(self.writers, made) >= call.last and self._is_needed(call, given)

    def _is_needed(self, call: Invocation, given: set[int]) -> bool:
        """Whether anybody needs what a call is given but itself."""
        if call.inputs[0] in self.flow.base or not given <= self.made.keys():
            return True  # a view, an input of the model, a parameter
        changes = [*(self.made[memory] for memory in given), *(w for m in given for w in self.writers.get(m, ()))]
        last = max(index for index in changes if index < call.first)
        return self._last(self.readers, given) > last or (last not in self.gone and keeps_result(self.flow, last))

    def _shared(self, number: int, identities: Collection[Invocation]) -> set[int]:
        """The memory of a tensor, and all that is the same if some calls are identities."""
        found = {self._of(number)}
        pairs = [{self._of(call.inputs[0]), self._of(call.outputs[0])} for call in identities]
        while True:
            more = found.union(*(pair for pair in pairs if not pair.isdisjoint(found)))
            if more == found:
                return found
            found = more

    def _of(self, number: int) -> int:
        return self.flow.base.get(number, number)

    @staticmethod
    def _last(calls: dict[int, list[int]], memories: set[int]) -> int:
        return max((index for memory in memories for index in calls.get(memory, ())), default=-1)


def keeps_result(flow: Flow, index: int) -> bool:
    """Whether the derivative of an operator call needs what it returned, so that nobody may write into that: PyTorch is
    asked, with tensors of no content."""
    call, shapes, dtypes = flow.recording.calls[index], flow.recording.shapes, flow.recording.dtypes

    def made(item: Any) -> Any:
        if isinstance(item, Ref):
            tensor = torch.empty(shapes[item.value], dtype=dtypes[item.value], device="meta")
            return tensor.requires_grad_().clone() if tensor.is_floating_point() else tensor
        return [made(entry) for entry in item] if isinstance(item, (list, tuple)) else item

    try:
        with torch.inference_mode(False), torch.enable_grad():
            result = call.operator(*made(call.args), **{key: made(value) for key, value in call.kwargs.items()})
            first = result if isinstance(result, torch.Tensor) else result[0]
            if first.requires_grad:
                first.add_(0).sum().backward()
    except Exception:  # whatever it is, nothing speaks for writing there
        return True
    return False
