"""Hearing units by themselves: what the first reader of an axis reads, and the gradients of what its producers give.

For statistics that do not bring both together, as a `Listener` does: nothing is kept but numbers per unit, and what
costs time is a few sums.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from meristem.axes.expression import Leaf, units_along
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import End
from meristem.errors import SignalError
from meristem.signals.batch import Batch
from meristem.signals.contraction import read_call
from meristem.signals.forward import Calls, Hear
from meristem.signals.listener import whole
from meristem.signals.statistic import Statistic
from meristem.signals.weight_gradients import Learner, shown, weights_of


@dataclass(frozen=True, eq=False)
class Channels:
    """Where an axis lies in what a weight reads or gives.

    Attributes:
        units: its size.
        of: the unit of every channel, int64, the number of units where a channel belongs to none; None if channels are
            units.
    """

    units: int
    of: Tensor | None

    @property
    def each(self) -> int:
        """How many channels a unit has."""
        return 1 if self.of is None else int((self.of < self.units).sum()) // self.units

    def sums(self, x: Tensor) -> Tensor:
        """From sums over channels, shape (..., channels), to sums over units."""
        if self.of is None:
            return x
        total = x.new_zeros(*x.shape[:-1], self.units + 1)
        return total.index_add(-1, self.of.to(x.device), x)[..., :-1]


@dataclass(eq=False)
class Pass:
    """What one sensor heard in one forward and backward pass.

    Attributes:
        closing: whether it belongs to the last step before an edit.
        read: what the sensor made of what was read; None if nothing was.
        rank: of the path that was read from: the first one that there is.
        called: how many calls of producers there were.
        hooked: whether the gradient of what any of them gave is waited for.
        given: what the sensor made of the gradients of what they gave, added up; None if none came.
        arrived: whether any gradient came back.
    """

    closing: bool
    read: Any = None
    rank: int | None = None
    called: int = 0
    hooked: bool = False
    given: Tensor | None = None
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
    def reads(self, x: Tensor, dim: int, channels: Channels) -> Any:
        """What it makes of what a reader reads: x, channels along `dim`."""

    @abstractmethod
    def gives(self, gradient: Tensor, dim: int, channels: Channels) -> Tensor:
        """What it makes of the gradient of what a producer gave. Gradients come as they are, the loss scale in them."""

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


@dataclass(eq=False)
class _Current:
    """One forward pass."""

    session: object
    calls: dict[str, int] = field(default_factory=dict)
    found: dict[Sensor, Pass] = field(default_factory=dict)


class Ear:
    """Listens for sensors, by hooks, between `open` and `close`; again and again as long as the model is not edited.

    Args:
        axes: the map of the model.
        sensors: what listens.
        factor: gives what gradients are to be divided by.
        closing: gives whether the current step is the last one before an edit.
    """

    def __init__(
        self, axes: AxisMap, sensors: Iterable[Sensor], factor: Callable[[], float], closing: Callable[[], bool]
    ) -> None:
        self._axes, self._factor, self._closing = axes, factor, closing
        self._wanted = tuple(sensors)
        parameters = dict(axes.model.named_parameters(remove_duplicate=False))
        self._readers: dict[End, list[tuple[int, int, Channels]]] = {}
        self._producers: dict[End, list[tuple[int, Channels]]] = {}
        self._ends: dict[str, frozenset[str]] = {}
        for number, axis in enumerate(sensor.site[1] for sensor in self._wanted):
            paths = axes.paths[axis.index]
            for rank, end in enumerate(dict.fromkeys(path.consumer for path in paths)):
                channels = _channels(axes, end.weight, axis, Role.READS)
                self._readers.setdefault(end, []).append((number, rank, channels))
            for end in dict.fromkeys(path.producer for path in paths):
                self._producers.setdefault(end, []).append((number, _channels(axes, end.weight, axis, Role.PRODUCES)))
            self._ends[axis.name] = frozenset(end.weight for path in paths for end in (path.producer, path.consumer))
        self._by_call = {(end.weight, end.call): end for end in (*self._readers, *self._producers)}
        weights = dict.fromkeys(name for names in self._ends.values() for name in names)
        self._weights = {name: weakref.ref(parameters[name]) for name in weights}
        self._session: object | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: Calls | None = None
        self._called: set[str] = set()
        self._learnt: set[str] = set()
        learners: dict[tuple[str, bool], list[Learner]] = {}
        for sensor in self._wanted:
            for name in sensor.weights(*sensor.site):
                learners.setdefault((name, sensor.late), []).append(sensor)
        self._shows = [
            (name, late, _of_grad(show) if late else show)
            for (name, late), found in learners.items()
            for show in [shown(name, found, factor, self._learnt.add)]
        ]

    def open(self) -> None:
        """Listen."""
        self.close()
        self._session = object()
        self._called.clear()
        self._learnt.clear()
        model = self._axes.model
        weights = {name: _alive(reference, model, name) for name, reference in self._weights.items()}
        self._names = {id(weight): name for name, weight in weights.items()}
        self._calls = Calls(model, self._enter)
        for name, late, show in self._shows:
            weight = weights[name]
            if weight.requires_grad:
                hooked = weight.register_post_accumulate_grad_hook if late else weight.register_hook
                self._handles.append(hooked(show))

    def close(self) -> None:
        """Stop listening; the model is as if nobody ever had. Backward passes that are still to come are not heard."""
        self._session = None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._calls is not None:
            self._calls.close()
            self._calls = None

    def wants(self, name: str) -> bool:
        """Whether it listens to that axis."""
        return name in self._ends

    def unheard(self, name: str) -> frozenset[str]:
        """The weights of an axis that got gradients although no call of them was ever heard."""
        return (self._ends[name] - self._called) & self._learnt

    def memory(self) -> dict[str, Any]:
        """What it knows of weights so far, for `recall`."""
        return {"called": sorted(self._called), "learnt": sorted(self._learnt)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._called |= set(memory["called"])
        self._learnt |= set(memory["learnt"])

    def _enter(self) -> Hear:
        return partial(self.hear, _Current(self._session))

    def hear(self, current: _Current, function: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        if self._names.keys().isdisjoint(map(id, (*args, *kwargs.values()))):
            return
        call = read_call(function, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if call is None or name is None:
            return
        self._called.add(name)
        number = current.calls.get(name, 0)
        current.calls[name] = number + 1
        end = self._by_call.get((name, number))
        if end is None:
            return
        before = 1 + len(call.contraction.kernel)
        for index, rank, channels in self._readers.get(end, ()):
            self._read(current, self._wanted[index], rank, call.input.detach(), channels, before)
            if result.requires_grad and not current.found[self._wanted[index]].hooked:
                self._hook(current, result, [(index, None)], before)  # what produces it is not trained
        producers = self._producers.get(end, ())
        for index, _ in producers:
            found = self._pass(current, self._wanted[index])
            found.called += 1
            found.hooked |= result.requires_grad
        if producers and result.requires_grad:
            self._hook(current, result, producers, before)

    def _pass(self, current: _Current, sensor: Sensor) -> Pass:
        if sensor not in current.found:
            current.found[sensor] = Pass(self._closing())
        return current.found[sensor]

    def _read(self, current: _Current, sensor: Sensor, rank: int, x: Tensor, channels: Channels, before: int) -> None:
        found = self._pass(current, sensor)
        if found.rank is None or rank < found.rank:
            found.rank = rank
            with torch.no_grad():
                found.read = sensor.reads(x, x.dim() - before, channels)

    def _hook(self, current: _Current, result: Tensor, wanting: Any, before: int) -> None:
        shape = result.shape

        def arrived(gradient: Tensor) -> None:
            if current.session is not self._session:
                return
            delta, by = gradient.detach().reshape(shape), self._factor()
            for index, channels in wanting:
                sensor = self._wanted[index]
                found = current.found[sensor]
                if not found.arrived:
                    found.arrived = True
                    sensor.passes.append(found)
                if channels is not None:
                    here = sensor.gives(delta, delta.dim() - before, channels)
                    here = here if by == 1 else here / by
                    found.given = here if found.given is None else found.given + here

        whole(result).register_hook(arrived)


def _channels(axes: AxisMap, weight: str, axis: Axis, role: Role) -> Channels:
    layout = axes.layouts[weight]
    dim = next(dim for dim, found in enumerate(layout.roles) if role in found.get(axis.index, ()))
    if isinstance(layout.dims[dim], Leaf):
        return Channels(axis.size, None)
    units = units_along(layout.dims[dim], axis.index, axes.sizes)
    return Channels(axis.size, torch.where(units < 0, axis.size, units))


def _alive(reference: weakref.ref[nn.Parameter], model: nn.Module, name: str) -> nn.Parameter:
    found = reference()
    return model.get_parameter(name) if found is None else found


def _of_grad(show: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        if weight.grad is not None:  # an optimizer that steps during the backward pass may have taken it
            show(weight.grad)

    return hook
