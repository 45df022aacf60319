"""Solving: walk through a recording, let each operator's rule speak, and collect what it says about the axes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch

from meristem.axes.context import Context, FindRule
from meristem.axes.map import Coupling, Role
from meristem.axes.recorder import Call, Recording, references
from meristem.axes.solution import INPUT, Solution, Value
from meristem.errors import TraceError


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
    _couple_bent_readers(solution)
    return solution


def _couple_bent_readers(solution: Solution) -> None:
    """Newborns' entries of what goes through a logarithm, say, are copies: what reads them there is not zero."""
    for mark in solution.marks:
        if mark.role is Role.READS and mark.origin[0] in solution.bent:
            solution.space.couple(mark.within, Coupling.STANDARDIZED)


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
        values[number] = Value(tuple(solution.space.axis(n, INPUT) for n in recording.shapes[number]))
    for name, number in recording.named.items():
        dims = solution.layouts[name]
        origins = tuple(frozenset({(name, dim)}) for dim in range(len(dims)))
        own = frozenset({name})
        values[number] = Value(dims, True, name in buffers, origins, plain=True, entries=own)
    return values


def _check(recording: Recording, call: Call, output: int, value: Value) -> None:
    """A rule that contradicts the recorded shape is a defect of ours or of torch: never let it through."""
    if len(value.dims) != len(recording.shapes[output]):
        raise TraceError(
            f"{call.operator} at {call.site.where} should return {len(value.dims)} dimensions, but torch "
            f"{torch.__version__} says that it returns {recording.shapes[output]}. Old releases of torch are wrong "
            "about some recurrent layers: use a newer one. If this is a new one, please report it"
        )
