"""What a statistic is: a question about an axis, and what adds up its answer batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import CheckpointError
from meristem.signals.memory import plain, restored

if TYPE_CHECKING:
    from meristem.signals.batch import Batch


class Accumulator(ABC):
    """Adds up one statistic over the batches of one or more training steps. Keeps nothing per sample.

    Attributes:
        kept: the names of its attributes that hold what it has added up: numbers, strings, tensors, and containers of
            them. They are saved when a run is saved between two steps over which it adds up. None (the default): it
            cannot be saved, and a run that is resumed there adds up anew.
    """

    kept: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def add(self, batch: Batch, closing: bool) -> None:
        """Take in one batch; `closing` if it belongs to the last step before the edit."""

    def parts(self) -> Sequence[Tensor]:
        """What is added up over batches, counts too. In a distributed run it is summed over ranks, in place, before
        `result`. Default: nothing; then all ranks get the result of rank 0's batches.
        """
        return ()

    @abstractmethod
    def result(self) -> Any:
        """The answer, after at least one batch."""

    def memory(self) -> dict[str, Any]:
        """What it has added up, for `recall`."""
        return {name: plain(getattr(self, name)) for name in self.kept or ()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there. Raises `CheckpointError` if it is malformed."""
        if set(memory) != set(self.kept or ()):
            raise CheckpointError(f"{type(self).__name__} keeps {self.kept}, what was saved holds {tuple(memory)}")
        for name, saved in memory.items():
            setattr(self, name, restored(saved))


@dataclass(frozen=True)
class Statistic(ABC):
    """A question about one axis. Equal statistics are recorded once and shared by all that ask.

    Attributes:
        axis: the name of the axis.
    """

    axis: str

    @abstractmethod
    def accumulator(self) -> Accumulator:
        """What adds it up."""

    def covers(self, other: Statistic) -> bool:
        """Whether its result answers another question too. Default: only an equal one."""
        return self == other

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why the question has no answer for an axis, or None if it has."""
        return None
