"""The calls that contract an activation with a weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meristem.axes.map import TensorLayout
from meristem.axes.path import End
from meristem.axes.recorder import Call, Recording, Ref, references

_WEIGHT = {
    "aten.linear": 1, "aten.conv1d": 1, "aten.conv2d": 1, "aten.conv3d": 1, "aten.convolution": 1,
    "aten.conv_transpose1d": 1, "aten.conv_transpose2d": 1, "aten.conv_transpose3d": 1,
    "aten.addmm": 2, "aten.matmul": 1, "aten.mm": 1,
}  # fmt: skip
"""Where the weight stands among the arguments."""

_INPUT = {"aten.addmm": 1}
_BIAS = {"aten.addmm": 0}
_NO_BIAS = {"aten.matmul", "aten.mm"}
_MATRICES = {"aten.linear", "aten.addmm", "aten.matmul", "aten.mm"}
_TRANSPOSED = {
    "aten.addmm", "aten.matmul", "aten.mm", "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"
}  # fmt: skip
"""Weights that are laid out (in, out, ...)."""


class Contractions:
    """Those of one recording, one after the other.

    Args:
        recording: the calls.
        layouts: of all tensors.

    Attributes:
        count: by weight, how many there were so far.
    """

    def __init__(self, recording: Recording, layouts: Mapping[str, TensorLayout]) -> None:
        self._names = {ref: name for name, ref in recording.named.items()}
        self._layouts = layouts
        self.count: dict[str, int] = {}

    def next(self, call: Call) -> End | None:
        """The end of a path that the next call is; None if it contracts nothing with a parameter."""
        weight = self._weight(call)
        if weight is None:
            return None
        number = self.count.get(weight, 0)
        self.count[weight] = number + 1
        transposed = call.name in _TRANSPOSED or bool(_argument(call, "transposed", False))
        return End(weight, number, self._bias(call), int(_argument(call, "groups", 1)), transposed)

    def others(self, call: Call) -> set[str]:
        """The parameters and buffers that a call uses in another way."""
        found = [self._names[ref] for ref in references(call) if ref in self._names]
        weight = self._weight(call)
        if weight is not None:
            found.remove(weight)
        return set(found)

    def _weight(self, call: Call) -> str | None:
        place = None if {1} != {call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)} else _WEIGHT.get(call.name)
        if place is None or place >= len(call.args) or not isinstance(call.args[place], Ref):
            return None
        name = self._names.get(call.args[place].value)
        return name if name is not None and not self._layouts[name].buffer else None

    def _bias(self, call: Call) -> str | None:
        place = _BIAS.get(call.name, 2)
        bias = call.args[place] if place < len(call.args) else call.kwargs.get("bias")
        return self._names.get(bias.value) if isinstance(bias, Ref) and call.name not in _NO_BIAS else None


def activation(call: Call) -> int:
    """What a call contracts with its weight."""
    return call.args[_INPUT.get(call.name, 0)].value


def find_contractions(
    recordings: Iterable[Recording], layouts: Mapping[str, TensorLayout]
) -> dict[str, tuple[End, ...]]:
    """By weight, in the order in which they are called, all calls in which activations are contracted with it.

    Weights that are used in another way besides, as a vector or a stack of matrices, or differently in another
    recording, are left out.
    """
    found: dict[str, dict[int, End]] = {}
    others: set[str] = set()
    for recording in recordings:
        contractions = Contractions(recording, layouts)
        for call in recording.calls:
            others |= contractions.others(call)
            end = contractions.next(call)
            if end is None:
                continue
            known = found.setdefault(end.weight, {}).setdefault(end.call, end)
            matrix = len(recording.shapes[recording.named[end.weight]]) == 2
            if matrix != (call.name in _MATRICES) or not _same(end, known):
                others.add(end.weight)
    return {weight: tuple(ends.values()) for weight, ends in found.items() if weight not in others}


def _same(one: End, other: End) -> bool:
    return one.groups == other.groups and one.transposed == other.transposed


def _argument(call: Call, name: str, default: Any) -> Any:
    """An argument by the name that the operator has for it."""
    names = [argument.name for argument in call.operator._schema.arguments]
    place = names.index(name) if name in names else len(call.args)
    return call.args[place] if place < len(call.args) else call.kwargs.get(name, default)
