"""What one operator call of a run computes, and of what: operands are told by where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor that no step made.

    Attributes:
        kind: "input", "parameter" (or buffer), "argument" of the module around; "gone": what a silent module returns;
            "lost": what a module that passes on what it is given returns beside that.
        name: its number, or its name; of arguments, their shape: where one tensor is given twice, nobody can tell which
            is read.
    """

    kind: str
    name: int | str = 0


@dataclass(frozen=True, slots=True)
class Made:
    """A result of a step: the number of the step, and which of its results."""

    step: int
    output: int


class Inner(Made):
    """The same within a module that is a step of its own."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a tensor when a step wrote into memory that it shares."""

    by: Made
    of: Source


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that the code holds or makes of numbers; equal to another one with the same entries."""

    content: Tensor | None
    shape: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or self.shape != other.shape:
            return False
        one, two = self.content, other.content
        if one is two or one is None or two is None:
            return one is two
        return one.dtype == two.dtype and one.device == two.device and _same_entries(one, two)

    def __hash__(self) -> int:
        return hash(self.shape)


Source: TypeAlias = Origin | Made | Changed | Constant
GONE, LOST = Origin("gone"), Origin("lost")
ANY = "whatever they are"
"""Stands for arguments without tensors where lengths have been changed: numbers that the code passes follow them."""


@dataclass(frozen=True)
class Step:
    """One operator call, or one call of a module that is compared as a whole, or the model's results.

    Attributes:
        operator: which.
        operands: where the tensors among its arguments come from, in order.
        plain: its arguments without tensors.
        shapes: of its results.
        content: the steps within.
        where, module: the place in the code, and the module that is called; they are not compared.
    """

    operator: Any
    operands: tuple[Source, ...]
    plain: Any
    shapes: tuple[tuple[int, ...], ...]
    content: tuple[Step, ...] = ()
    where: str = field(default="", compare=False)
    module: str = field(default="", compare=False)

    def renamed(self, name: Callable[[Made], Source]) -> Step:
        """The same with other numbers of steps, in what is within, too."""
        operands = tuple(renamed(operand, name) for operand in self.operands)
        return replace(self, operands=operands, content=tuple(step.renamed(name) for step in self.content))


def renamed(source: Source, name: Callable[[Made], Source]) -> Source:
    """A source with other numbers of steps."""
    if type(source) is Made:
        return name(source)
    if isinstance(source, Changed):
        by = renamed(source.by, name)
        return Changed(by, renamed(source.of, name)) if isinstance(by, Made) else by
    return source


def _same_entries(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one, two) or torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)
