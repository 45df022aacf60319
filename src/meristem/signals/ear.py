"""Hearing units by themselves: what the first reader of an axis reads, and the gradients of what its producers give.

For statistics that do not bring both together, as a `Listener` does: nothing is kept but numbers per unit, and what
costs time is a few sums.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from meristem.axes.map import AxisMap
from meristem.signals.backward import Backward
from meristem.signals.channels import Channels
from meristem.signals.contraction import read_call
from meristem.signals.ends import Ends, Side
from meristem.signals.forward import Calls, Hear, whole
from meristem.signals.inside import looked_into
from meristem.signals.sensor import Pass, Sensor
from meristem.signals.weight_gradients import Learner, shown


@dataclass(eq=False)
class _Current:
    """One forward pass."""

    session: object
    calls: dict[str, int] = field(default_factory=dict)
    found: dict[int, Pass] = field(default_factory=dict)


class Ear:
    """Listens for sensors, by hooks, between `open` and `close`; again and again as long as the model is not edited.

    Args:
        axes: the map of the model.
        sensors: what listens.
        scale: gives the factor by which the loss is multiplied before the backward pass; it is divided out.
        steps: gradients of weights are divided by it, too.
        closing: gives whether the current step is the last one before an edit.
    """

    def __init__(
        self,
        axes: AxisMap,
        sensors: Iterable[Sensor],
        scale: Callable[[], float],
        steps: int,
        closing: Callable[[], bool],
    ) -> None:
        self._axes, self._scale, self._closing = axes, scale, closing
        self._sensors = tuple(sensors)
        self._ends = Ends(axes, [sensor.site[1] for sensor in self._sensors])
        self._backward = Backward(axes.model)
        self._weights_of = dict(zip((s.site[1].name for s in self._sensors), self._ends.weights, strict=True))
        parameters = dict(axes.model.named_parameters(remove_duplicate=False))
        weights = dict.fromkeys(name for names in self._ends.weights for name in names)
        self._weights = {name: weakref.ref(parameters[name]) for name in weights}
        self._session: object | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: Calls | None = None
        self._called: set[str] = set()
        self._learnt: set[str] = set()
        self._otherwise: set[str] = set()
        self._shows = self._learning(lambda: steps * scale())

    def _learning(self, factor: Callable[[], float]) -> list[tuple[str, bool, Callable[[Tensor], None]]]:
        """By weight, whether it is shown late, and the hook."""
        learners: dict[tuple[str, bool], list[Learner]] = {}
        for sensor in self._sensors:
            for name in sensor.weights(*sensor.site):
                learners.setdefault((name, sensor.late), []).append(sensor)
        shows = ((key, shown(key[0], found, factor, self._learnt.add)) for key, found in learners.items())
        return [(name, late, _of_grad(show) if late else self._backward.only(show)) for (name, late), show in shows]

    def open(self) -> None:
        """Listen."""
        self.close()
        self._session = object()
        self._called.clear()
        self._learnt.clear()
        self._otherwise.clear()
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
        return name in self._weights_of

    def unheard(self, name: str) -> frozenset[str]:
        """The weights of an axis that got gradients through calls that were not heard, or cannot be."""
        weights = self._weights_of[name]
        return ((weights - self._called) & self._learnt) | (weights & self._otherwise)

    def memory(self) -> dict[str, Any]:
        """What it knows of weights so far, for `recall`."""
        known = {"called": self._called, "learnt": self._learnt, "otherwise": self._otherwise}
        return {kind: sorted(names) for kind, names in known.items()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._called |= set(memory["called"])
        self._learnt |= set(memory["learnt"])
        self._otherwise |= set(memory["otherwise"])

    # ------------------------------------------------------------------ forward

    def _enter(self) -> Hear:
        return partial(self.hear, _Current(self._session))

    def hear(self, current: _Current, function: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        used = self._names.keys() & map(id, (*args, *kwargs.values()))
        if not used:
            return
        call = read_call(function, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if (len(used) > 1 or name is None) and not looked_into(function) and _in_graph(result):
            self._otherwise.update(found for found in map(self._names.__getitem__, used) if found != name)
        if call is None or name is None:
            return
        number = current.calls.get(name, 0)
        current.calls[name] = number + 1
        if call.weight.requires_grad and not result.requires_grad:
            return  # no gradient comes back through this call; if one comes by another, that was not heard
        self._called.add(name)
        before = 1 + len(call.contraction.kernel)
        for side in self._ends.readers(name, number):
            found = self._pass(current, side.number)
            self._read(found, side, call.input.detach(), before)
            if result.requires_grad and not found.hooked:  # what produces it is not trained
                self._hook(current, result, [(side.number, None)], before)
        producers = self._ends.producers(name, number)
        for side in producers:
            found = self._pass(current, side.number)
            found.given_rows += side.channels.count(result, result.dim() - before)
            found.hooked |= result.requires_grad
        if producers and result.requires_grad:
            self._hook(current, result, [(side.number, side.channels) for side in producers], before)

    def _pass(self, current: _Current, number: int) -> Pass:
        if number not in current.found:
            current.found[number] = Pass(self._closing())
        return current.found[number]

    def _read(self, found: Pass, side: Side, x: Tensor, before: int) -> None:
        """Add up the calls of the first reader; one that comes before those that were called takes their place."""
        if found.rank is not None and found.rank < side.rank:
            return
        dim = x.dim() - before
        with torch.no_grad():
            sums, rows = self._sensors[side.number].reads(x, dim, side.channels), side.channels.count(x, dim)
        if found.rank == side.rank and found.read is not None:
            sums, rows = found.read + sums, found.read_rows + rows
        found.rank, found.read, found.read_rows = side.rank, sums, rows

    # ------------------------------------------------------------------ backward

    def _hook(
        self, current: _Current, result: Tensor, wanting: Sequence[tuple[int, Channels | None]], before: int
    ) -> None:
        shape = result.shape

        def arrived(gradient: Tensor) -> None:
            if current.session is not self._session or not self._backward.trains():
                return
            delta, by = gradient.detach().reshape(shape), self._scale()
            for number, channels in wanting:
                sensor, found = self._sensors[number], current.found[number]
                if not found.arrived:
                    found.arrived = True
                    sensor.passes.append(found)
                if channels is not None:
                    here = sensor.gives(delta, delta.dim() - before, channels)
                    here = here if by == 1 else here / by
                    found.given = here if found.given is None else found.given + here

        whole(result).register_hook(arrived)


def _alive(reference: weakref.ref[nn.Parameter], model: nn.Module, name: str) -> nn.Parameter:
    found = reference()
    return model.get_parameter(name) if found is None else found


def _in_graph(result: Any) -> bool:
    return isinstance(result, Tensor) and result.requires_grad


def _of_grad(show: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        if weight.grad is not None:  # an optimizer that steps during the backward pass may have taken it
            show(weight.grad)

    return hook
