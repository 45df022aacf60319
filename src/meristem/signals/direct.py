"""Statistics that hook the model themselves, and the recorder of everything."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from meristem.axes.map import AxisMap
from meristem.errors import CheckpointError, SignalError
from meristem.signals.batch import Batch
from meristem.signals.ranks import agree, distributed
from meristem.signals.recorder import Recorder
from meristem.signals.statistic import Accumulator, Statistic


@dataclass(frozen=True)
class Direct(Statistic):
    """A statistic that does not follow newborns from one weight to the next, and so is not heard from a `Batch`.

    It has answers where a `Batch` has none: on axes with couplings, with several channels to a unit, in recurrent nets.
    """

    def accumulator(self) -> NoReturn:
        """Raises `SignalError`: it is recorded by a `Recording`."""
        raise SignalError(f"{type(self).__name__} hooks the model itself: record it with a Recording, not a Recorder")

    @classmethod
    @abstractmethod
    def tap(cls, axes: AxisMap, asked: Sequence[Any], scale: Callable[[], float]) -> Tap:
        """What listens for all statistics of this class at once.

        Args:
            axes: the map of the model.
            asked: the statistics.
            scale: gives the factor by which the loss is multiplied before the backward pass.
        """


class Sums(Accumulator):
    """What a tap adds up for one statistic."""

    def add(self, batch: Batch, closing: bool) -> NoReturn:
        """Raises `SignalError`: a tap adds by other means."""
        raise SignalError(f"{type(self).__name__} is not heard from a Batch")


class Tap:
    """Listens by hooks of its own, without further passes.

    Attributes:
        sums: by statistic what is added up.
        overflowed: whether gradients that are not finite were left out.
    """

    sums: Mapping[Any, Sums]
    overflowed: bool = False

    def problem(self) -> str | None:
        """Why there are no results, or None if there are."""
        return None

    def stepped(self) -> None:
        """A step is over. May be called twice; nothing has to be done where passes of all steps simply add up."""

    def close(self) -> None:
        """Stop listening."""


class Recording:
    """A `Recorder` for all statistics: what is heard from batches, and what hooks the model itself.

    Where several steps are recorded, call `stepped` between them.

    Args, other methods and errors: as `Recorder`.
    """

    def __init__(
        self,
        axes: AxisMap,
        statistics: Iterable[Statistic],
        scale: Callable[[], float] | None = None,
        steps: int = 1,
    ) -> None:
        asked = list(dict.fromkeys(statistics))
        direct: dict[type[Direct], list[Direct]] = {}
        for statistic in asked:
            if isinstance(statistic, Direct):
                direct.setdefault(type(statistic), []).append(statistic)
        self._axes = axes
        heard = [s for s in asked if not isinstance(s, Direct)]
        self._recorder = Recorder(axes, heard, scale, steps) if heard else None
        self._taps = [kind.tap(axes, found, scale or _one) for kind, found in direct.items()]

    @property
    def complete(self) -> bool:
        """Whether everything has been heard; else `finish` would raise."""
        heard = self._recorder is None or self._recorder.complete
        return heard and all(tap.problem() is None for tap in self._taps)

    @property
    def overflowed(self) -> bool:
        """Whether gradients that are not finite were left out, as steps are that a `GradScaler` skips."""
        heard = self._recorder is not None and self._recorder.overflowed
        return heard or any(tap.overflowed for tap in self._taps)

    def stepped(self) -> None:
        """A step is over: the next pass belongs to another one. Not needed after the last one."""
        for tap in self._taps:
            tap.stepped()

    def closing(self) -> None:
        """The step that begins is the last one."""
        self.stepped()
        if self._recorder is not None:
            self._recorder.closing()

    def finish(self) -> Mapping[Statistic, Any]:
        """Stop, and give the result of every statistic.

        Raises:
            SignalError: as `Recorder.finish`.
        """
        self.cancel()
        self.stepped()
        found = {} if self._recorder is None else dict(self._recorder.finish())
        sums: dict[Statistic, Accumulator] = {s: one for tap in self._taps for s, one in tap.sums.items()}
        problem = next((text for tap in self._taps if (text := tap.problem()) is not None), None)
        if sums and distributed():
            return {**found, **agree(sums, problem, next(self._axes.model.parameters()).device)}
        if problem is not None:
            raise SignalError(problem)
        return {**found, **{statistic: one.result() for statistic, one in sums.items()}}

    def memory(self) -> dict[str, Any] | None:
        """As `Recorder.memory`."""
        self.stepped()
        heard = None if self._recorder is None else self._recorder.memory()
        sums = [one for tap in self._taps for one in tap.sums.values()]
        if (heard is None and self._recorder is not None) or any(one.kept is None for one in sums):
            return None
        overflowed = [tap.overflowed for tap in self._taps]
        return {"heard": heard, "sums": [one.memory() for one in sums], "overflowed": overflowed}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """As `Recorder.recall`."""
        sums = [one for tap in self._taps for one in tap.sums.values()]
        if len(memory["sums"]) != len(sums) or len(memory["overflowed"]) != len(self._taps):
            raise CheckpointError(f"{len(sums)} statistics are recorded, {len(memory['sums'])} were saved")
        if self._recorder is not None:
            self._recorder.recall(memory["heard"])
        for one, saved in zip(sums, memory["sums"], strict=True):
            one.recall(saved)
        for tap, overflowed in zip(self._taps, memory["overflowed"], strict=True):
            tap.overflowed = bool(overflowed)

    def cancel(self) -> None:
        """Stop listening."""
        if self._recorder is not None:
            self._recorder.cancel()
        for tap in self._taps:
            tap.close()


def _one() -> float:
    return 1.0
