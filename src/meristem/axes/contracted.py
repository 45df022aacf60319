"""The calls that contract an activation with a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meristem.axes.expression import Expression, leaves
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
_ADDS_NOTHING = {"aten.matmul", "aten.mm"}
_MATRICES = {"aten.linear", "aten.addmm", "aten.matmul", "aten.mm"}
"""Their weights have two dimensions; those of convolutions have more."""
_TRANSPOSED = {
    "aten.addmm", "aten.matmul", "aten.mm", "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"
}  # fmt: skip
"""Weights that are laid out (in, out, ...)."""


class Contractions:
    """Those of one recording, one after the other.

    Args:
        recording: the calls.
        layouts: of all tensors.
        dims: gives the dimensions of a tensor over numbered axes; lengths that no parameter has have negative numbers.

    Attributes:
        ends: those that there were so far.
        others: the weights that were used in another way, or as a vector or a stack of matrices.
    """

    def __init__(
        self,
        recording: Recording,
        layouts: Mapping[str, TensorLayout],
        dims: Callable[[int], Sequence[Expression]],
    ) -> None:
        self._names = {ref: name for name, ref in recording.named.items()}
        self._recording, self._layouts, self._dims = recording, layouts, dims
        self._count: dict[str, int] = {}
        self.ends: list[End] = []
        self.others: set[str] = set()

    def next(self, call: Call) -> End | None:
        """The end of a path that the next call is; None if it contracts nothing with a parameter."""
        name = self._weight(call)
        used = [self._names[ref] for ref in references(call) if ref in self._names]
        if name is not None:
            used.remove(name)
            if (len(self._layouts[name].dims) == 2) != (call.name in _MATRICES):
                used.append(name)
        self.others.update(used)
        if name is None:
            return None
        self.ends.append(self._end(call, name))
        return self.ends[-1]

    def _end(self, call: Call, weight: str) -> End:
        number = self._count.get(weight, 0)
        self._count[weight] = number + 1
        transposed = call.name in _TRANSPOSED or bool(_argument(call, "transposed", False))
        groups = int(_argument(call, "groups", 1))
        whole = self._channels(call, weight, transposed) if groups > 1 else None
        return End(weight, number, self._bias(call), groups, transposed, whole)

    def _channels(self, call: Call, weight: str, transposed: bool) -> Expression | None:
        """What a convolution reads, a transposed one gives: where one group's share is a dimension of the weight."""
        dims = self._dims(call.outputs[0] if transposed else activation(call))
        found = dims[1 - len(self._layouts[weight].dims)]
        return None if any(axis < 0 for axis in leaves(found)) else found

    def _weight(self, call: Call) -> str | None:
        ref = weight(call)
        name = self._names.get(ref) if ref is not None else None
        return name if name is not None and not self._layouts[name].buffer else None

    def _bias(self, call: Call) -> str | None:
        ref = bias(call)
        return self._names.get(ref) if ref is not None else None


def weight(call: Call) -> int | None:
    """What stands where a call that contracts has its weight; None if it contracts nothing, or scales the result."""
    place = None if {1} != {call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)} else _WEIGHT.get(call.name)
    return call.args[place].value if place is not None and isinstance(call.args[place], Ref) else None


def bias(call: Call) -> int | None:
    """What a call that contracts adds to the result; None for nothing, and for any other call."""
    if call.name not in _WEIGHT or call.name in _ADDS_NOTHING:
        return None
    place = _BIAS.get(call.name, 2)
    found = call.args[place] if place < len(call.args) else call.kwargs.get("bias")
    return found.value if isinstance(found, Ref) else None


def activation(call: Call) -> int:
    """What a call contracts with its weight."""
    return call.args[_INPUT.get(call.name, 0)].value


def _argument(call: Call, name: str, default: Any) -> Any:
    """An argument by the name that the operator has for it."""
    names = [argument.name for argument in call.operator._schema.arguments]
    place = names.index(name) if name in names else len(call.args)
    return call.args[place] if place < len(call.args) else call.kwargs.get(name, default)
