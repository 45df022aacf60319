"""What the rules say about one model: records of lengths, roles and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from meristem.axes.expression import Expression
from meristem.axes.guards import Guard
from meristem.axes.map import Role
from meristem.axes.recorder import Recording
from meristem.axes.space import Space

Origin: TypeAlias = "tuple[str, int]"
"""A dimension of a parameter or buffer: (canonical name, dimension)."""

INPUT = "model input"
"""Why the lengths of what the model is given are frozen."""

Powers: TypeAlias = "Mapping[tuple[int, int, tuple[int | str, ...]], tuple[tuple[Expression, float], ...]]"
"""By the place of a number (recording, call, path in its arguments) the lengths that it may follow, with the power of
each; none where that is not known."""


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of one tensor of the recording.

    Attributes:
        dims: its dimensions over the space's axes.
        static: whether it is computed from parameters, buffers and constants alone (a weight, say).
        constant: whether it is computed from buffers and constants alone.
        origins: for a static value, the dimensions of parameters and buffers that each dimension comes from.
        keeps_zero: for a static value, whether zero slices of its parameters give zero slices of it.
        nonlinear: for a static value, the lengths along which it is not linear in its parameters slice by slice.
        normalized: for a static value, the lengths over which it was divided by a norm.
        directions: those of the origins that were divided by the norm of their own slices: zeros there are 0 / 0.
        plain: for a static value, whether its entries are those of parameters and buffers, rearranged at most.
        entries: the names of parameters and buffers whose entries are in it one by one, not summed up by a reduction.
        bent: those of them that went through a function that some numbers are not meant for: logarithms, divisors.
    """

    dims: tuple[Expression, ...]
    static: bool = False
    constant: bool = False
    origins: tuple[frozenset[Origin], ...] = ()
    keeps_zero: bool = True
    nonlinear: tuple[Expression, ...] = ()
    normalized: tuple[Expression, ...] = ()
    directions: frozenset[Origin] = frozenset()
    plain: bool = False
    entries: frozenset[str] = frozenset()
    bent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Mark:
    """A dimension of a parameter has a role towards the axes of an expression."""

    origin: Origin
    role: Role
    within: Expression


@dataclass(frozen=True, slots=True)
class Literal:
    """A length that the model's Python code passed to an operator.

    Attributes:
        recording, call: which call, by numbers.
        path: where in its arguments: position or keyword, then positions in nested lists.
        value: the length as an expression.
    """

    recording: int
    call: int
    path: tuple[int | str, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Fact:
    """What PyTorch calls a length of this call (`in_features`, say); these modules may hold it under that name."""

    modules: tuple[str, ...]
    path: tuple[str | int, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Operations:
    """A contraction over these lengths."""

    recording: int
    module: str
    lengths: tuple[Expression, ...]


class Solution:
    """Everything the rules said about one model. Filled by a `Context`, read by the proof and the map's builder."""

    def __init__(self) -> None:
        self.space = Space()
        self.recordings: list[Recording] = []
        self.layouts: dict[str, tuple[Expression, ...]] = {}
        self.marks: dict[Mark, None] = {}
        self.nonlinear: list[tuple[Role, Expression, tuple[Expression, ...]]] = []
        self.neutrals: dict[str, float | None] = {}
        self.joined: dict[str, bool] = {}
        self.unknown: set[str] = set()
        self.bent: set[str] = set()
        self.literals: list[Literal] = []
        self.facts: list[Fact] = []
        self.operations: list[Operations] = []
        self.alike: list[tuple[Expression, Expression]] = []
        self.guards: dict[Guard, None] = {}
        self.kinds: list[tuple[Expression, str]] = []
        self.values: list[dict[int, Value]] = []
        self.products: list[tuple[int, int, Expression]] = []
        """Contractions of two activations: recording, call, and the length that is contracted."""
        self.powers: dict[int, Powers] = {}
        """By axis, the numbers that are not lengths but follow it, as `scaled` finds them."""
        self.used: list[set[int]] = []
