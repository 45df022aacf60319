"""What the model's Python code compares: a size with another one, or with a number.

An edit after which a comparison comes out differently sends the code another way than the one that was traced, so that
nothing that the map says is known to hold. Such an edit is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from meristem.axes.expression import Expression, Leaf, Product, Sizes


@dataclass(frozen=True, slots=True)
class Computation:
    """A number that the code computes of others.

    Attributes:
        operation: a key of `OPERATIONS`.
        operands: one or two.
    """

    operation: str
    operands: tuple[Quantity, ...]


Quantity: TypeAlias = "int | float | Leaf | Computation"
"""A number as the code has it: a constant, the size of an axis, or computed from such."""

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "/": operator.truediv,
    "%": operator.mod,
    "**": operator.pow,
    "negative": operator.neg,
    "absolute": operator.abs,
    "floor": math.floor,
    "ceiling": math.ceil,
    "rounded": round,
}
RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
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
    if isinstance(quantity, Leaf):
        return leaf(quantity)
    if isinstance(quantity, Computation):
        return Computation(quantity.operation, tuple(replaced(each, leaf) for each in quantity.operands))
    return quantity


def number_of(quantity: Quantity, sizes: Sizes) -> int | float:
    """The number when axes have the given sizes.

    Raises:
        ArithmeticError: there is none.
    """
    if isinstance(quantity, Leaf):
        return sizes[quantity.axis]
    if isinstance(quantity, Computation):
        return OPERATIONS[quantity.operation](*(number_of(each, sizes) for each in quantity.operands))
    return quantity


def axes_of(quantity: Quantity) -> Iterator[int]:
    """The axes, by number, whose sizes a number is computed from."""
    if isinstance(quantity, Leaf):
        yield quantity.axis
    elif isinstance(quantity, Computation):
        for each in quantity.operands:
            yield from axes_of(each)


@dataclass(frozen=True, slots=True)
class Guard:
    """A comparison on which the way through the code hangs.

    Attributes:
        relation: a key of `RELATIONS`.
        left, right: what is compared.
        holds: how it came out when the model was traced.
        where: `file:line`.
    """

    relation: str
    left: Quantity
    right: Quantity
    holds: bool
    where: str

    @property
    def axes(self) -> frozenset[int]:
        """The axes, by number, on whose sizes it depends."""
        return frozenset((*axes_of(self.left), *axes_of(self.right)))

    def kept(self, sizes: Sizes) -> bool:
        """Whether it comes out as it did when axes have the given sizes."""
        try:
            return bool(self._compared(sizes)) == self.holds
        except ArithmeticError:  # the code would raise it as well
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


def _said(quantity: Quantity, names: Sequence[str]) -> str:
    if isinstance(quantity, Leaf):
        return names[quantity.axis]
    if not isinstance(quantity, Computation):
        return str(quantity)
    parts = [_said(each, names) for each in quantity.operands]
    return f"({f' {quantity.operation} '.join(parts)})" if len(parts) > 1 else f"{quantity.operation} {parts[0]}"
