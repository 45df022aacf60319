"""What the model's Python code compares: a size with another one, or with a number.

An edit after which a comparison comes out differently sends the code another way than the one that was traced, so that
nothing that the map says is known to hold. Such an edit is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

from meristem.axes.expression import Expression, Leaf, Product, Sizes


@dataclass(frozen=True, slots=True, eq=False)
class Computation:
    """A number that the code computes of others. What it is computed of may be shared, as in `n = n + n`.

    Attributes:
        operation: a key of `OPERATIONS`.
        operands: one or two; any number of those that must all hold.
        key: the same for the same computation, whatever it shares.
    """

    operation: str
    operands: tuple[Quantity, ...]
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = (each.key if isinstance(each, Computation) else repr(each).encode() for each in self.operands)
        whole = b"\0".join((self.operation.encode(), *parts))
        object.__setattr__(self, "key", blake2b(whole, digest_size=16).hexdigest().encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Computation) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


Quantity: TypeAlias = "int | float | Leaf | Computation"
"""A number as the code has it: a constant, the size of an axis, or computed from such."""

RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "or": lambda left, right: bool(left or right),
}
OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "/": operator.truediv,
    "%": operator.mod,
    "**": operator.pow,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "negative": operator.neg,
    "absolute": operator.abs,
    "inverted": operator.invert,
    "floor": math.floor,
    "ceiling": math.ceil,
    "truncated": math.trunc,
    "rounded": round,
    "bit length of": int.bit_length,
    "bits in": int.bit_count,
    "and": lambda *each: all(each),
    **RELATIONS,
}
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", "<=": ">", ">": "<="}
_FAILURES = (ArithmeticError, ValueError, TypeError)
"""What a computation may raise at other sizes: a division by zero, a negative shift, a root that is complex."""
_ORDER = frozenset({"<", "<=", ">", ">="})


def computed(expression: Expression, leaf: Callable[[Leaf], Quantity]) -> Quantity:
    """The length of a dimension as a number that is computed from sizes."""
    if isinstance(expression, Leaf):
        return leaf(expression)
    product = isinstance(expression, Product)
    found: Quantity = 1 if product else 0
    for part in expression.factors if product else expression.parts:
        number = computed(part, leaf)
        found = number if found == (1 if product else 0) else Computation("*" if product else "+", (found, number))
    return found


def replaced(quantity: Quantity, leaf: Callable[[Leaf], Quantity]) -> Quantity:
    """The same computation of other sizes."""
    known: dict[Computation, Quantity] = {}

    def of(each: Quantity) -> Quantity:
        return leaf(each) if isinstance(each, Leaf) else known[each] if isinstance(each, Computation) else each

    for step in _steps(quantity):
        known[step] = Computation(step.operation, tuple(map(of, step.operands)))
    return of(quantity)


def number_of(quantity: Quantity, sizes: Sizes) -> int | float:
    """The number when axes have the given sizes.

    Raises:
        ArithmeticError, ValueError, TypeError: there is none.
    """
    known: dict[Computation, Any] = {}

    def of(each: Quantity) -> Any:
        return sizes[each.axis] if isinstance(each, Leaf) else known[each] if isinstance(each, Computation) else each

    for step in _steps(quantity):
        known[step] = _applied(step.operation, [of(each) for each in step.operands])
    found = of(quantity)
    if isinstance(found, Exception):
        raise found
    return found


def _applied(operation: str, operands: Sequence[Any]) -> Any:
    """The result of an operation, or what it raises. Where comparisons must all hold, one that raises does not."""
    failure = next((each for each in operands if isinstance(each, Exception)), None)
    if failure is not None:
        return False if operation == "and" else failure
    try:
        return OPERATIONS[operation](*operands)
    except _FAILURES as error:
        return error


def axes_of(quantity: Quantity) -> Iterator[int]:
    """The axes, by number, whose sizes a number is computed from."""
    for each in (quantity, *(operand for step in _steps(quantity) for operand in step.operands)):
        if isinstance(each, Leaf):
            yield each.axis


def _steps(quantity: Quantity) -> list[Computation]:
    """All computations in a number, each once, behind those of its operands."""
    found: dict[Computation, None] = {}
    waiting: list[tuple[Quantity, bool]] = [(quantity, False)]
    while waiting:
        each, ready = waiting.pop()
        if not isinstance(each, Computation) or each in found:
            continue
        if ready:
            found[each] = None
        else:
            waiting.append((each, True))
            waiting.extend((operand, False) for operand in each.operands)
    return list(found)


@dataclass(frozen=True, slots=True)
class Guard:
    """A comparison on which the way through the code hangs.

    Attributes:
        relation: a key of `RELATIONS`.
        left, right: what is compared.
        holds: how it came out when the model was traced.
        where: `file:line`.
        module: the innermost module that was run, by its qualified name.
    """

    relation: str
    left: Quantity
    right: Quantity
    holds: bool
    where: str
    module: str = ""

    @property
    def axes(self) -> frozenset[int]:
        """The axes, by number, on whose sizes it depends."""
        return frozenset((*axes_of(self.left), *axes_of(self.right)))

    @property
    def compared(self) -> tuple[str, Quantity, Quantity]:
        """What is compared, wherever, and however it came out."""
        return self.relation, self.left, self.right

    def kept(self, sizes: Sizes) -> bool:
        """Whether it comes out as it did when axes have the given sizes."""
        try:
            return bool(self._compared(sizes)) == self.holds
        except _FAILURES:  # the code would raise it as well
            return False

    def _compared(self, sizes: Sizes) -> bool:
        return RELATIONS[self.relation](number_of(self.left, sizes), number_of(self.right, sizes))

    @property
    def trivial(self) -> bool:
        """Whether it comes out as it did whatever the size."""
        return self._turns() == "never"

    @property
    def only_single(self) -> bool:
        """Whether it comes out differently for a single unit only."""
        return self._turns() == "single"

    def _turns(self) -> str:
        """When the comparison of one size with a number comes out differently: never, for a single unit, otherwise."""
        sides, axes = (self.left, self.right), self.axes
        number = next((side for side in sides if isinstance(side, (int, float))), None)
        if len(axes) != 1 or number is None or not any(isinstance(side, Leaf) for side in sides):
            return "otherwise"
        (axis,) = axes
        tried = [*range(2, 4), max(2, int(number)), max(2, int(number) + 1), 1 << 40]
        if not all(self.kept({axis: size}) for size in tried):
            return "otherwise"
        return "never" if self.kept({axis: 1}) else "single"

    def least(self, size: int) -> int:
        """Of a comparison by size in which one axis occurs, or with a single unit, the least number of units with which
        it comes out as it did; 1 of others.

        Args:
            size: how many there are now.
        """
        axes = self.axes
        if self.only_single:
            return 2
        if self.relation not in _ORDER or len(axes) != 1:
            return 1
        (axis,) = axes
        fails, works = 0, size
        while works - fails > 1:
            middle = (fails + works) // 2
            fails, works = (fails, middle) if self.kept({axis: middle}) else (middle, works)
        return works

    def said(self, names: Sequence[str]) -> str:
        """In words: which sizes are compared, and how it came out."""
        text = f"{_said(self.left, names)} {self.relation} {_said(self.right, names)}"
        return f"{text}, which {'holds' if self.holds else 'does not hold'} now"


def either(one: Sequence[Guard], other: Sequence[Guard]) -> Guard:
    """That all of some comparisons come out as they did, or all of some others: two ways through the code."""
    return Guard("or", _all(one), _all(other), True, one[0].where, one[0].module)


def _all(guards: Sequence[Guard]) -> Quantity:
    return Computation(
        "and",
        tuple(Computation(g.relation if g.holds else _OPPOSITE[g.relation], (g.left, g.right)) for g in guards),
    )


def _said(quantity: Quantity, names: Sequence[str], depth: int = 6) -> str:
    if isinstance(quantity, Leaf):
        return names[quantity.axis]
    if not isinstance(quantity, Computation):
        return str(quantity)
    if depth == 0:
        return "..."
    parts = [_said(each, names, depth - 1) for each in quantity.operands]
    if len(parts) > 1:
        return f"({f' {quantity.operation} '.join(parts)})"
    return parts[0] if quantity.operation == "and" else f"{quantity.operation} {parts[0]}"
