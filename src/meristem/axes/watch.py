"""Watching what the model's code compares: sizes that know which lengths they are computed from.

While a rehearsal is watched, the code gets the sizes of tensors, and the attributes that hold lengths, as numbers that
remember how they came about and that tell of every comparison they take part in. They are whole numbers and floats like
any other; what `int()`, `math.sqrt`, `torch.Size.numel` and the like make of them no longer remembers anything. Nor is
a look into a set or a dictionary seen that finds nothing: only hashes are compared then, and to count each hash would
count the keys of every cache as well.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from meristem.axes.expression import Expression, Leaf, Product
from meristem.axes.guards import OPERATIONS, RELATIONS, Computation, Guard, Quantity, computed
from meristem.axes.recorder import user_frames

Dims: TypeAlias = "Callable[[Tensor], tuple[Expression, ...] | None]"
"""The dimensions of a tensor; None if nothing is known of it."""


class Comparisons:
    """The comparisons seen in one rehearsal; each once.

    Args:
        free: whether a length can change.
    """

    def __init__(self, free: Callable[[Expression], bool]) -> None:
        self.found: dict[Guard, None] = {}
        self._free = free
        self._quantities: dict[Expression, Quantity] = {}
        self.open = False
        self.stack: Sequence[str] = ()

    def number(self, value: int, length: Expression) -> int:
        """A size that knows which length it is, if that can change."""
        if not self._free(length):
            return value
        quantity = self._quantities.get(length)
        if quantity is None:
            quantity = self._quantities[length] = computed(length, _itself)
        return _Whole.made(value, quantity, self)

    def note(self, relation: str, left: Quantity, right: Quantity, holds: bool) -> None:
        """A comparison was made."""
        if self.open:
            where, module = user_frames(sys._getframe(2))[0], self.stack[-1] if self.stack else ""
            self.found.setdefault(Guard(relation, left, right, holds, where, module))


class Watch(TorchFunctionMode):
    """Gives the model's code sizes that tell of comparisons.

    Args:
        comparisons: where they are noted.
        dims: what is known of a tensor.
        stack: the qualified names of the modules being run, innermost last.
    """

    def __init__(self, comparisons: Comparisons, dims: Dims, stack: Sequence[str]) -> None:
        super().__init__()
        self._comparisons = comparisons
        self._dims = dims
        self._stack = stack

    def __torch_function__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        self._comparisons.open = False  # what PyTorch compares is its own affair
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._comparisons.open = True
        return self._watched(func, result, args, kwargs or {}) if func in _LENGTHS or func in _COUNTS else result

    def __enter__(self) -> Watch:
        self._comparisons.stack, self._comparisons.open = self._stack, True
        builtins.len = _length
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._comparisons.open = False
        builtins.len = _LEN
        super().__exit__(*raised)

    def _watched(self, func: Any, result: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0] if args else kwargs.get("self", kwargs.get("input"))
        dims = self._dims(tensor) if isinstance(tensor, Tensor) else None
        if dims is None:
            return result
        if func in _COUNTS:
            return self._comparisons.number(result, Product(dims))
        if isinstance(result, torch.Size):
            return torch.Size(map(self._comparisons.number, result, dims)) if len(result) == len(dims) else result
        dim = 0 if func is Tensor.__len__ else args[1] if len(args) > 1 else kwargs.get("dim")
        if not dims or not isinstance(dim, int):
            return result
        return self._comparisons.number(result, dims[dim])


def _length(of: Any, /) -> int:
    """In place of `len`, which makes a plain number of what an object says."""
    return of.__len__() if isinstance(of, Tensor) else _LEN(of)


_LEN = builtins.len
_LENGTHS = frozenset({Tensor.shape.__get__, Tensor.size, Tensor.__len__})  # pyright: ignore[reportAttributeAccessIssue]
_COUNTS = frozenset({Tensor.numel, Tensor.nelement, torch.numel})


def _itself(leaf: Leaf) -> Quantity:
    return leaf


class _Told:
    """A number that remembers how it was computed."""

    quantity: Quantity
    comparisons: Comparisons

    @classmethod
    def made(cls, value: Any, quantity: Quantity, comparisons: Comparisons) -> Any:
        """One of that value."""
        number = cls.__new__(cls, value)  # pyright: ignore[reportCallIssue]
        number.quantity, number.comparisons = quantity, comparisons
        return number

    def __pos__(self) -> _Told:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a plain number."""
        plain = int if isinstance(self, int) else float
        return plain, (plain(self),)  # pyright: ignore[reportArgumentType]


class _Whole(_Told, int):
    __hash__ = int.__hash__


class _Real(_Told, float):
    __hash__ = float.__hash__


def _quantity(number: Any) -> Quantity:
    return number.quantity if isinstance(number, _Told) else number


def _plain(number: Any) -> Any:
    if isinstance(number, _Told):
        return int(number) if isinstance(number, int) else float(number)  # pyright: ignore[reportArgumentType]
    return number


def _result(value: Any, operation: str, operands: tuple[Quantity, ...], comparisons: Comparisons) -> Any:
    kind = {int: _Whole, float: _Real}.get(type(value))
    if kind is None or not comparisons.open:
        return value
    return kind.made(value, Computation(operation, operands), comparisons)


def _binary(operation: str, turned: bool) -> Callable[..., Any]:
    def method(self: _Told, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if turned else (self, other)
        value = OPERATIONS[operation](_plain(left), _plain(right))
        return _result(value, operation, (_quantity(left), _quantity(right)), self.comparisons)

    return method


def _power(turned: bool) -> Callable[..., Any]:
    power = _binary("**", turned)

    def method(self: _Told, other: Any, modulus: Any = None) -> Any:
        found = power(self, other)
        if modulus is None or found is NotImplemented:
            return found
        base, exponent = (other, self) if turned else (self, other)
        value = pow(*map(_plain, (base, exponent, modulus)))
        if _plain(exponent) < 0:  # an inverse, which is not the remainder of a power
            return value
        return _result(value, "%", (_quantity(found), _quantity(modulus)), self.comparisons)

    return method


def _unary(operation: str) -> Callable[..., Any]:
    def method(self: _Told, *more: Any) -> Any:
        if more:  # digits to round to
            return round(_plain(self), *more)
        return _result(OPERATIONS[operation](_plain(self)), operation, (self.quantity,), self.comparisons)

    return method


def _compared(relation: str) -> Callable[..., Any]:
    def method(self: _Told, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        holds = RELATIONS[relation](_plain(self), _plain(other))
        self.comparisons.note(relation, self.quantity, _quantity(other), holds)
        return holds

    return method


def _divided(self: Any, other: Any) -> Any:
    return (self // other, self % other) if isinstance(other, (int, float)) else NotImplemented


def _divides(self: Any, other: Any) -> Any:
    return (other // self, other % self) if isinstance(other, (int, float)) else NotImplemented


def _is_whole(self: _Told) -> bool:
    holds = _plain(self).is_integer()
    self.comparisons.note("==", Computation("%", (self.quantity, 1)), 0, holds)
    return holds


def _truth(self: _Told) -> bool:
    holds = bool(_plain(self))
    self.comparisons.note("!=", self.quantity, 0, holds)
    return holds


_BINARY = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truediv": "/", "mod": "%"}
_BITWISE = {"and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>"}
_UNARY = {"neg": "negative", "abs": "absolute", "floor": "floor", "ceil": "ceiling"}
_UNARY |= {"trunc": "truncated", "round": "rounded"}
_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
for _kind, _operations in ((_Whole, _BINARY | _BITWISE), (_Real, _BINARY)):
    for _name, _operation in _operations.items():
        setattr(_kind, f"__{_name}__", _binary(_operation, turned=False))
        setattr(_kind, f"__r{_name}__", _binary(_operation, turned=True))
    for _name, _operation in _UNARY.items():
        setattr(_kind, f"__{_name}__", _unary(_operation))
    for _name, _relation in _COMPARED.items():
        setattr(_kind, f"__{_name}__", _compared(_relation))
    _kind.__pow__, _kind.__rpow__ = _power(turned=False), _power(turned=True)
    _kind.__divmod__, _kind.__rdivmod__ = _divided, _divides
    _kind.__bool__ = _truth
_Real.is_integer = _is_whole
_Whole.__invert__, _Whole.bit_length, _Whole.bit_count = map(_unary, ("inverted", "bit length of", "bits in"))
