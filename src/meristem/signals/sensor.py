"""What an ear hears with: per axis, an accumulator of numbers per unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import SignalError
from meristem.signals.batch import Batch
from meristem.signals.channels import Channels
from meristem.signals.statistic import Statistic
from meristem.signals.weight_gradients import Learner, weights_of


@dataclass(eq=False)
class Pass:
    """What one sensor heard in one forward pass and in the backward passes through it.

    Attributes:
        closing: whether it belongs to the last step before an edit.
        read: what the sensor made of what the first reader that was called has read, all its calls added up; None if
            none was called.
        read_rows: how many samples and positions that was.
        rank: of that reader among those of the axis.
        given: what the sensor made of the gradients of what producers gave, added up; None if none came.
        given_rows: how many samples and positions producers gave, all their calls added up.
        hooked: whether a gradient of what any of them gave is waited for.
        arrived: whether any gradient came back.
    """

    closing: bool
    read: Tensor | None = None
    read_rows: int = 0
    rank: int | None = None
    given: Tensor | None = None
    given_rows: int = 0
    hooked: bool = False
    arrived: bool = False


@dataclass(eq=False)
class Sensor(Learner):
    """An accumulator of what an ear hears of one axis.

    Attributes:
        site: the map and the axis.
        passes: all passes in which gradients came back.
        overflowed: whether gradients that are not finite were left out.
        late: whether `learn` is given what `.grad` holds after each backward pass, which is not copied and not to be
            kept, instead of the gradient of the pass.
    """

    late: ClassVar[bool] = False

    site: tuple[AxisMap, Axis]
    passes: list[Pass] = field(default_factory=list)

    overflowed: bool = False

    def restart(self) -> None:
        """Forget everything."""
        self.passes, self.overflowed = [], False

    def add(self, batch: Batch, closing: bool) -> NoReturn:
        """Raises `SignalError`: a sensor adds by other means."""
        raise SignalError(f"{type(self).__name__} is not heard from a Batch")

    def weights(self, axes: AxisMap, axis: Axis) -> Iterable[str]:
        return weights_of(axes, axis)

    @abstractmethod
    def reads(self, x: Tensor, dim: int, channels: Channels) -> Tensor:
        """Sums over what one call of a reader reads: x, channels along `dim`."""

    @abstractmethod
    def gives(self, gradient: Tensor, dim: int, channels: Channels) -> Tensor:
        """Sums over the gradient of what one call of a producer gave. Gradients come as they are, the loss scale in
        them."""

    @abstractmethod
    def heard(self, closing: bool) -> bool:
        """Whether there is a pass with finite gradients, in the closing step if that is asked for."""


@dataclass(frozen=True)
class Sensed(Statistic):
    """A statistic that is heard by a sensor, not from a `Batch`."""

    def accumulator(self) -> NoReturn:
        """Raises `SignalError`: it needs to know the map; see `sensor`."""
        raise SignalError(f"{type(self).__name__} is heard by a sensor: record it with a Recorder")

    @abstractmethod
    def sensor(self, axes: AxisMap) -> Sensor:
        """What hears it."""
