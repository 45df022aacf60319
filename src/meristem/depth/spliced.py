"""The steps of a run whose blocks stand in another order: what a rehearsal of that order must show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from meristem.depth.steps import LOST, Made, Source, Step, renamed

Carried = Mapping[tuple[int, int], tuple[int, int]]
"""By (child of a block, argument): the (child, result) of the block before from which it comes."""


def spliced(steps: Sequence[Step], blocks: Sequence[Sequence[str]], order: Sequence[int]) -> tuple[Step, ...] | None:
    """The steps of a model with some blocks in another number or order.

    Each block is given what the one before it returns, the first one what the first was given; beside that each is
    given what it was given, wherever it stands; what was read of the last one is read of the last one now. Nothing else
    may read what is between: it would come from a block by its number, and is lost here.

    Args:
        steps: the steps of the model as it is; each call of a child of a block is one.
        blocks: by block, the paths of its children.
        order: the numbers of the blocks as they are to stand.

    Returns:
        the steps, or None where blocks are not called one right after the other.
    """
    paths = [path for block in blocks for path in block]
    found = _Spliced(steps, len(blocks[0]), len(blocks), order)
    position = 0
    while position < len(steps):
        if steps[position].module not in paths:
            found.keep(position)
            position += 1
        elif [step.module for step in steps[position : position + len(paths)]] == paths:
            found.run_through(position)
            position += len(paths)
        else:
            return None
    return tuple(found.new)


class _Spliced:
    def __init__(self, steps: Sequence[Step], period: int, count: int, order: Sequence[int]) -> None:
        self.steps, self.period, self.count, self.order = steps, period, count, order
        self.new: list[Step] = []
        self.numbers: dict[int, int] = {}
        """By old number the new one, of steps that anybody may read."""

    def keep(self, position: int) -> None:
        """A step outside the blocks."""
        self.numbers[position] = len(self.new)
        self.new.append(self.steps[position].renamed(self._outside))

    def run_through(self, start: int) -> None:
        """All blocks once, from an old number on."""
        begin, period = len(self.new), self.period
        carried = self._carried(start)
        for place, number in enumerate(self.order):
            for child in range(period):
                old = self.steps[start + number * period + child]
                operands = [
                    self._operand(source, start, begin, (place, number), (child, argument), carried)
                    for argument, source in enumerate(old.operands)
                ]
                self.new.append(replace(old.renamed(self._outside), operands=tuple(operands)))
        self.numbers[start + self.count * period - 1] = len(self.new) - 1

    def _carried(self, start: int) -> Carried:
        """What blocks are given by the block before; of a single one that is what comes first."""
        if self.count == 1:
            return {(0, 0): (self.period - 1, 0)}
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for child, step in enumerate(self.steps[start + self.period : start + 2 * self.period]):
            for argument, source in enumerate(step.operands):
                if type(source) is Made and start <= source.step < start + self.period:
                    found[child, argument] = source.step - start, source.output
        return found

    def _operand(
        self,
        source: Source,
        start: int,
        begin: int,
        block: tuple[int, int],
        at: tuple[int, int],
        carried: Carried,
    ) -> Source:
        """What a child of a block is given where the block stands now."""
        (place, number), (child, argument), period = block, at, self.period
        if at in carried:
            if place > 0:
                before, output = carried[at]
                return Made(begin + (place - 1) * period + before, output)
            return renamed(self.steps[start + child].operands[argument], self._outside)

        def inside(made: Made) -> Source:
            own, other = divmod(made.step - start, period)
            return Made(begin + place * period + other, made.output) if own == number else self._outside(made)

        return renamed(source, inside)

    @property
    def _outside(self) -> Callable[[Made], Source]:
        numbers = self.numbers
        return lambda made: Made(numbers[made.step], made.output) if made.step in numbers else LOST
