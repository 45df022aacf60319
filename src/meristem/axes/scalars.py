"""Numbers that are not lengths: which of them change with the sizes of a model, and by which factor.

They enter an operator as an argument (`x / width`, `alpha=1 / width`) or as the content of a tensor that the code makes
of numbers (`torch.tensor(width)`). What only says sizes, strides or dimensions is not among them: a change of these
shows in shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan, nan
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload

from meristem.axes.expression import Expression, size_of
from meristem.axes.operators import short_name
from meristem.axes.recorder import Call, Ref
from meristem.axes.space import Space

ArgumentPath: TypeAlias = "tuple[int | str, ...]"
_POWERS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
_PRECISION = 1e-6  # numbers may have gone through single precision
_TENSORS = ("Tensor", "Optional[Tensor]", "List[Tensor]", "List[Optional[Tensor]]", "Optional[List[Tensor]]")
_NUMBERS = ("number", "float", "int", "List[number]", "List[float]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number that is not a length and that changed with the sizes.

    Attributes:
        recording, call, path: where it stands, as in a `Literal`.
        ratio: the new by the old one; NaN if there is none: the old one is 0, say, or the numbers of a table changed by
            different factors.
    """

    recording: int
    call: int
    path: ArgumentPath
    ratio: float

    @property
    def place(self) -> tuple[int, int, ArgumentPath]:
        """Where it stands: the same in every rehearsal."""
        return self.recording, self.call, self.path


@cache
def _arguments(operator: OpOverload) -> tuple[tuple[int, str, Any], ...]:
    """Position, name and default of every argument that may be or hold a number that is not a length.

    The bounds of a slice are lengths: its pieces are proven by their shapes. A number that is read out of a tensor
    (`.item()`) counts where the code passes it.
    """
    name = short_name(operator)
    if name == "aten._local_scalar_dense":
        return ()
    types = _TENSORS if name == "aten.slice" else (*_TENSORS, *_NUMBERS)
    types = {*types, *(f"Optional[{each}]" for each in types)}
    every = enumerate(operator._schema.arguments)
    return tuple((i, a.name, a.default_value) for i, a in every if str(a.real_type) in types)


def pairs(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[ArgumentPath, Any, Any]]:
    """The numbers and tensors of a recorded call beside those with which it is made now: path, old (a `Ref` for a
    tensor) and new one; numbers only where they differ."""
    for position, name, default in _arguments(call.operator):
        old = call.args[position] if position < len(call.args) else call.kwargs.get(name, default)
        new = args[position] if position < len(args) else kwargs.get(name, default)
        yield from _pairs((position if position < len(args) else name,), old, new)


def _pairs(path: ArgumentPath, old: Any, new: Any) -> Iterator[tuple[ArgumentPath, Any, Any]]:
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        for i, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _pairs((*path, i), one, other)
    elif isinstance(old, Ref) or isinstance(new, Tensor) or not _same(old, new):
        yield path, old, new


def _same(old: Any, new: Any) -> bool:
    both_nan = isinstance(old, float) and isinstance(new, float) and isnan(old) and isnan(new)
    return old is new or old == new or both_nan


def factor(old: Any, new: Any) -> float:
    """By what a number, or all numbers of a tensor alike, were multiplied: 1 if nothing changed, NaN if by nothing."""
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        return new / old if old and new else nan
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return nan
    if old.shape != new.shape or old.dtype != new.dtype:
        return nan
    if torch.equal(old, new):
        return 1.0
    if old.is_complex() or not old.all():
        return nan
    ratios = new.double() / old.double()
    ratio = float(ratios.flatten()[0])
    return ratio if bool(((ratios / ratio - 1).abs() < _PRECISION).all()) else nan


def followed(ratio: float, lengths: Mapping[Expression, tuple[int, int]]) -> set[Expression]:
    """The lengths a power of which changed by a factor.

    Args:
        lengths: old and new size of each.
    """
    return {
        length
        for length, (old, new) in lengths.items()
        if old and new and any(abs((new / old) ** power / ratio - 1) < _PRECISION for power in _POWERS)
    }


def changed_lengths(
    space: Space, dims: Iterable[Expression], sizes: Mapping[int, int]
) -> dict[Expression, tuple[int, int]]:
    """Old and new size of every length that new sizes of some axes change."""
    every = {**dict(enumerate(space.sizes)), **sizes}
    found: dict[Expression, tuple[int, int]] = {}
    for length in dict.fromkeys(map(space.resolve, dims)):
        old, new = space.size(length), size_of(length, every)
        if old != new:
            found[length] = old, new
    return found
