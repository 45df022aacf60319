"""Repeated blocks in another number or order: copies, removals and reorderings of the blocks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from meristem.axes.map import AxisMap
from meristem.depth.change import Change
from meristem.depth.copies import CopyStart, Plain
from meristem.depth.places import Places
from meristem.depth.runs import ordering
from meristem.edit.plant import Planting
from meristem.edit.tree import TreeRecord
from meristem.errors import EditError

PLAIN = Plain()


@dataclass(frozen=True)
class Arrange(Change):
    """Give a run these blocks: the gather of a depth edit.

    The first time that a block is named, it is itself; every further time it is a copy of it. Blocks that are not named
    are removed. Attributes that hold the number of blocks or their positions follow.

    Attributes:
        places: the places of the model as it is now.
        at: the run: the path of its container, or of one of its blocks.
        blocks: the numbers of the blocks, from 0, in the order in which they are to stand.
        copies: what copies start as. Default: as copies.

    Raises:
        EditError: no such run or blocks, nothing would change, nothing would be left, or `copies` is not defined here.
    """

    places: Places = field(repr=False)
    at: str
    blocks: Sequence[int]
    copies: CopyStart = PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        run = self.places.run(self.at)
        unknown = [number for number in self.blocks if not 0 <= number < len(run)]
        if unknown or not self.blocks:
            raise EditError(f"{run.name} has blocks 0 to {len(run) - 1}, at least one must stay; got {self.blocks}")
        if self.blocks == tuple(range(len(run))):
            raise EditError(f"{run.name} has these blocks in this order already")
        self.copies.check(self.places.model, self.places.flow, run, self._copied)

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The new order."""
        self.places.check(axes)
        run = self.places.run(self.at)
        seen: set[int] = set()
        order: list[tuple[int, bool]] = []
        for number in self.blocks:
            order.append((number, number in seen))
            seen.add(number)
        container = self.places.containers[run.container]
        return ordering(axes.model, container, run, order, fresh=self.copies.fresh)

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """Copies start as `copies` says."""
        own = {id(planting.made[id(node)]) for children in record.containers.values() for node in children.values()}
        copies: list[tuple[nn.Module, nn.Module]] = [pair for pair in planting.copies if id(pair[1]) in own]
        self.copies.start(self.places.flow, self.places.run(self.at), self._copied, copies, planting)

    def inexact(self) -> tuple[str, ...]:
        """Copies that are not silent, removals and other orders change the function."""
        first = tuple(dict.fromkeys(self.blocks))
        if first != tuple(range(len(self.places.run(self.at)))):
            return ("blocks are removed or reordered",)
        return self.copies.inexact()

    @property
    def _copied(self) -> list[int]:
        return sorted({number for number in self.blocks if self.blocks.count(number) > 1})


def duplicated(places: Places, block: str, count: int = 1, copies: CopyStart = PLAIN) -> Arrange:
    """Copies of a block of a run behind it.

    Args:
        places: the places of the model as it is now.
        block: the path of the block, or of one of its children.
        count: how many copies.
        copies: what they start as.

    Raises:
        EditError: no run has this block.
    """
    run = places.run(block)
    number = next((n for n, paths in enumerate(run.blocks) if block in paths), None)
    if number is None or count < 1:
        raise EditError(f"{block!r} is no block of {run.name}, or the number of copies, {count}, is not at least 1")
    numbers = range(len(run))
    return Arrange(places, block, (*numbers[: number + 1], *[number] * count, *numbers[number + 1 :]), copies)


def stacked(length: int, blocks: int) -> tuple[int, ...]:
    """All blocks, then all again, until there are `blocks`: `i mod length`.

    Progressive stacking doubles (Gong et al., ICML 2019); G_stack takes any factor, 4 at best, and does not take over
    the optimizer's state: `Edit(..., state=Zeros())` (Du et al., NeurIPS 2024, arXiv 2405.15319). Not preserving.
    """
    return tuple(_checked([number % length for number in range(blocks)], length))


def interlaced(length: int, blocks: int) -> tuple[int, ...]:
    """Every block followed by its copies: `floor(i length / blocks)`; with `blocks = 2 length` that is `i // 2`.

    The interlacing of LiGO (Wang et al., ICLR 2023, arXiv 2303.00980) and of Chang et al. 2018 (arXiv 1710.10348). Not
    preserving, but near where neighbouring blocks do little each.
    """
    return tuple(_checked([number * length // blocks for number in range(blocks)], length))


def upscaled(length: int, overlap: int) -> tuple[int, ...]:
    """Depth up-scaling: the blocks without the last `overlap`, then the blocks without the first `overlap`.

    SOLAR (Kim et al., NAACL 2024, arXiv 2312.15166): 32 blocks with an overlap of 8 give 48. Not preserving.
    """
    return tuple(_checked([*range(length - overlap), *range(overlap, length)], length))


def _checked(order: Sequence[int], length: int) -> Sequence[int]:
    if length < 1 or len(order) <= length:
        raise EditError(f"from {length} blocks more than {length} are to be made, not {len(order)}")
    return order
