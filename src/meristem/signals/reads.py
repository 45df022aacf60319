"""What the weights that read an axis read: means, sizes and gradients, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals.awaited import Awaited
from meristem.signals.backward import Backward
from meristem.signals.contraction import read_call, rows
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.forward import Calls, Hear, whole
from meristem.signals.memory import plain, restored
from meristem.signals.precision import precise


@dataclass(frozen=True, eq=False)
class Reading:
    """What one weight reads: float64, shape (groups, channels that one group reads) each; means over samples and
    positions.

    Attributes:
        mean, square, size: of h, `h ** 2` and `|h|`.
        zero: how often h is 0.
        gradient: of `|dL/dh|`; zeros where no gradient comes. Sizes add up call by call if `backward` is called several
            times through one graph.
    """

    mean: Tensor
    square: Tensor
    size: Tensor
    zero: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Reads(Direct):
    """What all readers of an axis read, in all their calls; its result: by the name of a weight, a `Reading`.

    Heard are linear maps and convolutions wherever the model calls them with the parameter itself; see `unheard`.
    Passes that do not train are not heard (see `Recorder`); where no gradient can come back, because everything is
    frozen, forward passes are. Over ranks everything adds up.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[Reads], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return unheard(axes, axis)


def readers(axes: AxisMap, axis: Axis) -> tuple[Place, ...]:
    """The dimensions of parameters that read an axis."""
    return tuple(p for p in axes.places[axis.index] if Role.READS in p.roles and not p.layout.buffer)


def unheard(axes: AxisMap, axis: Axis) -> str | None:
    """Why it cannot be heard what the readers of an axis read, or None if it can."""
    found = readers(axes, axis)
    if not found:
        return "no weight reads it"
    followed = {path.consumer.weight for path in axes.paths.get(axis.index, ())}
    hidden = next((place.layout.name for place in found if place.layout.name not in followed), None)
    return None if hidden is None else f"{hidden} reads it in a way that cannot be followed"


def by_unit(values: Mapping[str, Tensor], axes: AxisMap, axis: Axis) -> Tensor:
    """Numbers per channel, by reader, as one per unit: the mean over its channels, groups and readers.

    Args:
        values: by the name of a reader, shape (groups, channels), as in a `Reading`.
        axes, axis: the map and one of its axes.

    Returns:
        float64, shape (axis.size,), on the CPU.
    """
    found = []
    for place in readers(axes, axis):
        units = units_along(place.layout.dims[place.dim], axis.index, axes.sizes)
        own = units >= 0
        along = values[place.layout.name].mean(0).to("cpu", torch.float64)[own]
        sums = torch.zeros(axis.size, dtype=torch.float64).index_add(0, units[own], along)
        found.append(sums / torch.bincount(units[own], minlength=axis.size))
    return torch.stack(found).mean(0)


@dataclass(eq=False)
class _Heard:
    """Sums over rows of one reader: shape (5, channels), and how many rows."""

    groups: int
    totals: Tensor
    rows: Tensor


@dataclass(eq=False)
class _Sums(Sums):
    kept: ClassVar[tuple[str, ...]] = ()

    weights: tuple[str, ...]
    heard: dict[str, _Heard]
    own: tuple[str, ...]
    """Those that no earlier statistic brings along."""

    def memory(self) -> dict[str, Any]:
        return {name: plain(vars(self.heard[name])) for name in self.own if name in self.heard}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.heard.update({name: _Heard(**restored(found)) for name, found in memory.items()})

    def parts(self) -> Sequence[Tensor]:
        return [part for name in self.own for part in (self.heard[name].totals, self.heard[name].rows)]

    def result(self) -> Mapping[str, Reading]:
        return {
            name: Reading(*(h.totals / h.rows).unflatten(1, (h.groups, -1)))
            for name, h in ((name, self.heard[name]) for name in self.weights)
        }


class _Tap(Tap):
    """Sees every call of every forward pass that trains."""

    def __init__(self, axes: AxisMap, asked: Sequence[Reads], scale: Callable[[], float]) -> None:
        self._scale = scale
        self._open = True
        self._heard: dict[str, _Heard] = {}
        self.sums: dict[Any, _Sums] = {}
        wanted: set[str] = set()
        for s in asked:
            names = tuple(dict.fromkeys(place.layout.name for place in readers(axes, axes.by_name[s.axis])))
            self.sums[s] = _Sums(names, self._heard, tuple(name for name in names if name not in wanted))
            wanted.update(names)
        self._names = {id(axes.model.get_parameter(name)): name for name in wanted}
        self._backward = Backward(axes.model)
        self._current = Awaited(self._backward)
        self._calls = Calls(axes.model, self._enter, self._leave)

    def problem(self) -> str | None:
        silent = sorted({name for one in self.sums.values() for name in one.weights} - self._heard.keys())
        if not silent:
            return None
        return (
            f"no call was heard that reads with {', '.join(silent)}. Statistics of activations need a training step of "
            "the traced model between the calls of plasticity.step(); scripted modules and reentrant activation "
            "checkpointing hide calls: leave these axes out with `axes=`, or do without what is read of them "
            "(`compensate=False` of `shrink`, a criterion of weights and gradients alone)"
        )

    def close(self) -> None:
        self._open = False
        self._calls.close()

    def _enter(self) -> Hear:
        self._current = Awaited(self._backward)
        return partial(self.hear, self._current)

    def _leave(self, result: Any) -> None:
        self._current.left(result)

    def hear(self, current: Awaited, function: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        call = read_call(function, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if call is None or name is None:
            return
        contraction, x = call.contraction, call.input
        with precise(x.device):
            h = rows(x.detach(), contraction).movedim(1, -1).flatten(0, -2).double()
            sums = torch.stack([h.sum(0), h.square().sum(0), h.abs().sum(0), (h == 0).sum(0), torch.zeros_like(h[0])])
            count = torch.tensor([float(len(h))], dtype=torch.float64, device=x.device)
        current.if_it_trains(partial(self._count, name, _Heard(contraction.groups, sums, count)))
        current.wait_for(x, lambda gradient: self._arrived(name, rows(gradient.detach(), contraction)))
        current.wait_for(whole(result))

    def _count(self, name: str, new: _Heard) -> None:
        known = self._heard.get(name)
        if not self._open:
            return
        if known is None:
            self._heard[name] = new
        else:
            known.totals += new.totals
            known.rows += new.rows

    def _arrived(self, name: str, gradient: Tensor) -> None:
        if not self._open:
            return
        found = gradient.movedim(1, -1).flatten(0, -2).abs().sum(0, dtype=torch.float64) / self._scale()
        if bool(found.isfinite().all()):
            self._heard[name].totals[4] += found
        else:
            self.overflowed = True
